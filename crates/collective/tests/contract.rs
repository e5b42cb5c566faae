//! One suite for every `Collective`, and what they do when a rank dies, hangs or disagrees.
#![allow(clippy::disallowed_methods, reason = "these tests measure how long a failure takes")]

use perennial_collective::{
    Collective, CudaState, Error, Gloo, Nccl, Rendezvous, Solo, StoreServer, load_cuda, nccl, quiet_native_logs,
};
use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use tch::{Device, Kind, Tensor};

const HOST: &str = "127.0.0.1";
const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_secs(2);
/// Long enough to meet on a busy machine, short enough to wait out.
const PATIENCE: Duration = Duration::from_secs(5);
const CHILD: &str = "PERENNIAL_CONTRACT_CHILD";

fn server() -> StoreServer {
    quiet_native_logs();
    StoreServer::start(HOST, 0, LONG).unwrap()
}

fn at(server: &StoreServer, prefix: &str) -> Rendezvous {
    Rendezvous { host: HOST.into(), port: server.port(), prefix: prefix.into(), patience: LONG }
}

/// Runs `ranks` of a group of `world`, each on a thread, and returns what they return, by rank.
fn some_ranks<T: Send>(
    at: &Rendezvous,
    ranks: std::ops::Range<usize>,
    world: usize,
    timeout: Duration,
    body: impl Fn(Gloo) -> T + Sync,
) -> Vec<T> {
    thread::scope(|scope| {
        let start = |rank| {
            let body = &body;
            scope.spawn(move || body(Gloo::join(at, rank, world, HOST, timeout).unwrap()))
        };
        let running: Vec<_> = ranks.map(start).collect();
        running.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

fn all_ranks<T: Send>(world: usize, body: impl Fn(Gloo) -> T + Sync) -> Vec<T> {
    let server = server();
    some_ranks(&at(&server, "group"), 0..world, world, LONG, body)
}

fn floats(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_device(Device::Cpu).to_kind(Kind::Double).contiguous().reshape(-1)).unwrap()
}

/// 0, 1, 2, … in `shape`, plus `offset`.
fn ramp(shape: &[i64], offset: usize, options: (Kind, Device)) -> Tensor {
    Tensor::arange(shape.iter().product::<i64>(), options).reshape(shape) + offset as i64
}

fn contract(group: &dyn Collective, device: Device) {
    for kind in [Kind::Float, Kind::BFloat16, Kind::Int64] {
        sums(group, (kind, device));
        copies_the_root(group, (kind, device));
        gathers_in_rank_order(group, (kind, device));
        takes_any_layout(group, (kind, device));
        takes_empty_and_scalar_tensors(group, (kind, device));
    }
    leaves_gradients_alone(group, device);
    refuses_a_root_outside_the_group(group, device);
    group.barrier().unwrap();
}

fn sums(group: &dyn Collective, options: (Kind, Device)) {
    let mut tensor = ramp(&[2, 3], group.rank(), options);
    group.all_reduce(&mut tensor).unwrap();
    let world = group.world();
    let expected = (0..6).map(|i| (i * world + world * (world - 1) / 2) as f64);
    assert_eq!(floats(&tensor), expected.collect::<Vec<_>>());
}

fn copies_the_root(group: &dyn Collective, options: (Kind, Device)) {
    for root in 0..group.world() {
        let mut tensor = ramp(&[4], 10 * group.rank(), options);
        group.broadcast(&mut tensor, root).unwrap();
        assert_eq!(floats(&tensor), floats(&ramp(&[4], 10 * root, options)));
    }
}

fn gathers_in_rank_order(group: &dyn Collective, options: (Kind, Device)) {
    let gathered = group.all_gather(&ramp(&[2, 2], 10 * group.rank(), options)).unwrap();
    assert_eq!(gathered.len(), group.world());
    for (rank, tensor) in gathered.iter().enumerate() {
        assert_eq!(tensor.size(), [2, 2]);
        assert_eq!(floats(tensor), floats(&ramp(&[2, 2], 10 * rank, options)));
    }
}

fn takes_any_layout(group: &dyn Collective, options: (Kind, Device)) {
    let base = ramp(&[3, 4], group.rank(), options);
    let untouched = floats(&base.narrow(1, 2, 2));
    let mut view = base.narrow(1, 0, 2).transpose(0, 1);
    assert_eq!(floats(&group.all_gather(&view).unwrap()[group.rank()]), floats(&view));
    let mut expected = view.contiguous();
    group.all_reduce(&mut expected).unwrap();
    group.all_reduce(&mut view).unwrap();
    assert_eq!(floats(&view), floats(&expected));
    assert_eq!(floats(&base.narrow(1, 0, 2).transpose(0, 1)), floats(&expected));
    group.broadcast(&mut view, 0).unwrap();
    assert_eq!(floats(&base.narrow(1, 2, 2)), untouched);
}

fn takes_empty_and_scalar_tensors(group: &dyn Collective, options: (Kind, Device)) {
    let mut empty = Tensor::empty([0, 3], options);
    group.all_reduce(&mut empty).unwrap();
    group.broadcast(&mut empty, 0).unwrap();
    let gathered = group.all_gather(&empty).unwrap();
    assert!(gathered.len() == group.world() && gathered.iter().all(|tensor| tensor.size() == [0, 3]));
    let mut scalar = Tensor::ones([0i64; 0], options);
    group.all_reduce(&mut scalar).unwrap();
    assert_eq!(floats(&scalar), [group.world() as f64]);
    assert!(group.all_gather(&scalar).unwrap().iter().all(|tensor| tensor.dim() == 0));
}

fn leaves_gradients_alone(group: &dyn Collective, device: Device) {
    for shape in [[3, 2], [2, 3]] {
        let leaf = Tensor::ones([3, 2], (Kind::Float, device)).set_requires_grad(true);
        let mut view = if shape == [3, 2] { leaf.shallow_clone() } else { leaf.transpose(0, 1) };
        group.all_reduce(&mut view).unwrap();
        assert_eq!(floats(&leaf.detach()), [group.world() as f64; 6]);
        assert!(leaf.requires_grad());
    }
}

fn refuses_a_root_outside_the_group(group: &dyn Collective, device: Device) {
    let world = group.world();
    let refusal = group.broadcast(&mut Tensor::ones([2], (Kind::Float, device)), world);
    assert!(matches!(refusal, Err(Error::NoSuchRank { named, .. }) if named == world));
}

#[test]
fn solo_keeps_the_contract() {
    contract(&Solo, Device::Cpu);
}

#[test]
fn gloo_keeps_the_contract_with_one_rank() {
    all_ranks(1, |group| contract(&group, Device::Cpu));
}

#[test]
fn gloo_keeps_the_contract_with_two_ranks() {
    all_ranks(2, |group| contract(&group, Device::Cpu));
}

#[test]
fn gloo_keeps_the_contract_with_four_ranks() {
    all_ranks(4, |group| contract(&group, Device::Cpu));
}

/// Its own process: `load_cuda` must come before anything else of libtorch.
#[test]
fn nccl_keeps_the_contract_where_there_is_a_gpu() {
    let mut child = Peer::spawn("nccl", "");
    let mut said = String::new();
    child.output.read_to_string(&mut said).unwrap();
    assert!(child.process.wait().unwrap().success(), "{said}");
    let verdict = said.find("SKIPPED nccl: ").or_else(|| said.find("nccl: ")).expect("the child gives a verdict");
    // Not `println!`, which the harness keeps to itself: a skip must be seen.
    writeln!(std::io::stderr(), "{}", said[verdict..].lines().next().unwrap()).unwrap();
}

#[test]
fn nccl_fails_cleanly_where_it_cannot_run() {
    let Err(why) = nccl::available() else { return };
    let server = server();
    let error = Nccl::join(&at(&server, "none"), 0, 1, 0, SHORT).err().unwrap();
    assert_eq!(error.to_string(), format!("join failed on rank 0: {why}"));
}

#[test]
fn bf16_sums_are_exact_where_bf16_is() {
    let sums = all_ranks(4, |group| {
        let mut tensor = Tensor::from_slice(&[0.5f32, -2.25, 96.0, 1e30]).to_kind(Kind::BFloat16);
        group.all_reduce(&mut tensor).unwrap();
        assert_eq!(tensor.kind(), Kind::BFloat16);
        floats(&tensor)
    });
    let quarter = floats(&Tensor::from_slice(&[1e30f32]).to_kind(Kind::BFloat16))[0];
    assert!(sums.iter().all(|sum| *sum == [2.0, -9.0, 384.0, 4.0 * quarter]), "{sums:?}");
}

/// Groups of one process race in c10d's flight recorder, which is off where its buffer has no entries.
#[test]
fn nothing_is_recorded_where_groups_of_one_process_would_race() {
    drop(server());
    assert_eq!(env::var("TORCH_FR_BUFFER_SIZE").as_deref(), Ok("0"));
}

#[test]
fn ranks_that_disagree_are_told_and_stay_a_group() {
    all_ranks(2, |group| {
        let (rank, peer) = (group.rank(), 1 - group.rank());
        let shapes = [vec![4], vec![8]];
        let disagrees = |result: Result<(), Error>| {
            assert!(matches!(result, Err(Error::Disagree { peer: found, .. }) if found == peer), "{result:?}")
        };
        disagrees(group.all_reduce(&mut Tensor::ones(&shapes[rank], (Kind::Float, Device::Cpu))));
        disagrees(group.all_gather(&Tensor::ones([2 + rank as i64], (Kind::Float, Device::Cpu))).map(drop));
        let kinds = [Kind::Float, Kind::BFloat16];
        disagrees(group.all_reduce(&mut Tensor::ones([4], (kinds[rank], Device::Cpu))));
        disagrees(group.broadcast(&mut Tensor::ones([4], (Kind::Float, Device::Cpu)), rank));
        contract(&group, Device::Cpu);
    });
}

#[test]
fn other_types_are_refused() {
    all_ranks(1, |group| {
        let refusal = group.all_reduce(&mut Tensor::ones([2], (Kind::Double, Device::Cpu)));
        assert!(matches!(refusal, Err(Error::Unsupported { kind: Kind::Double, .. })));
    });
}

#[test]
fn every_call_after_abort_is_an_error() {
    all_ranks(2, |mut group| {
        group.barrier().unwrap();
        group.abort();
        let torn = |result: Result<(), Error>| assert!(matches!(result, Err(Error::TornDown { .. })), "{result:?}");
        let mut tensor = Tensor::ones([2], (Kind::Float, Device::Cpu));
        torn(group.all_reduce(&mut tensor));
        torn(group.broadcast(&mut tensor, 0));
        torn(group.all_gather(&tensor).map(drop));
        torn(group.barrier());
        group.abort();
    });
}

#[test]
fn a_killed_rank_is_noticed_long_before_the_timeout_and_the_rest_form_a_new_group() {
    let server = server();
    let first = at(&server, "job/1");
    let mut peer = Peer::join(&first, 3, 4, LONG);
    let (joined, joins) = mpsc::channel();
    let killed = thread::scope(|scope| {
        let survivors = scope.spawn(|| {
            some_ranks(&first, 0..3, 4, LONG, |group| {
                joined.send(()).unwrap();
                let mut tensor = Tensor::ones([1 << 16], (Kind::Float, Device::Cpu));
                let error = group.all_reduce(&mut tensor).unwrap_err();
                (error, Instant::now())
            })
        });
        peer.wait_until_ready();
        // A rank may be the first to have joined: killed then, it would fail the joins of the rest.
        (0..3).for_each(|_| joins.recv_timeout(LONG).unwrap());
        peer.process.kill().unwrap();
        let killed = Instant::now();
        for (error, noticed) in survivors.join().unwrap() {
            assert!(matches!(error, Error::Native { operation: "all_reduce", .. }), "{error:?}");
            assert!(!error.to_string().contains('\n'));
            assert!(noticed.duration_since(killed) < LONG / 2, "noticed after {:?}", noticed - killed);
        }
        killed
    });
    let sums = some_ranks(&at(&server, "job/2"), 0..3, 3, LONG, |group| {
        let mut tensor = ramp(&[2], group.rank(), (Kind::Float, Device::Cpu));
        group.all_reduce(&mut tensor).unwrap();
        floats(&tensor)
    });
    assert_eq!(sums, [[3.0, 6.0], [3.0, 6.0], [3.0, 6.0]]);
    assert!(killed.elapsed() < LONG);
}

#[test]
fn a_rank_that_hangs_is_an_error_at_the_timeout() {
    let server = server();
    let place = at(&server, "hung");
    let mut peer = Peer::join(&place, 2, 3, PATIENCE);
    let waits = some_ranks(&place, 0..2, 3, PATIENCE, |group| {
        let began = Instant::now();
        let error = group.barrier().unwrap_err();
        assert!(matches!(error, Error::Native { operation: "barrier", .. }), "{error:?}");
        assert!(matches!(group.barrier(), Err(Error::TornDown { .. })));
        began.elapsed()
    });
    peer.wait_until_ready();
    // The second one may be told by the first, which waited longer.
    assert!(waits.iter().all(|wait| *wait < 3 * PATIENCE), "{waits:?}");
    assert!(waits.iter().any(|wait| *wait > PATIENCE / 2), "{waits:?}");
}

/// How long a join that cannot succeed takes to say so.
fn failed_join(host: &str, port: u16, world: usize) -> Duration {
    quiet_native_logs();
    let place = Rendezvous { host: host.into(), port, prefix: "dead".into(), patience: SHORT };
    let began = Instant::now();
    let error = Gloo::join(&place, 0, world, HOST, LONG).err().unwrap();
    assert!(matches!(error, Error::Native { operation: "join", rank: 0, .. }), "{error:?}");
    assert!(!error.to_string().contains('\n'), "{error}");
    began.elapsed()
}

#[test]
fn a_join_ends_by_its_deadline_where_nobody_listens() {
    let port = TcpListener::bind((HOST, 0)).unwrap().local_addr().unwrap().port();
    assert!(failed_join(HOST, port, 1) < 2 * SHORT);
}

#[test]
fn a_join_ends_by_its_deadline_where_the_store_does_not_answer() {
    let silent = TcpListener::bind((HOST, 0)).unwrap();
    assert!(failed_join(HOST, silent.local_addr().unwrap().port(), 1) < 2 * SHORT);
}

#[test]
fn a_join_ends_by_its_deadline_where_the_address_leads_nowhere() {
    assert!(failed_join("192.0.2.1", 9, 1) < 2 * SHORT);
}

#[test]
fn a_join_ends_by_its_deadline_where_a_rank_never_comes() {
    let server = server();
    assert!(failed_join(HOST, server.port(), 2) < 2 * SHORT);
}

#[test]
fn a_taken_port_is_an_error_and_a_dropped_server_frees_it() {
    let first = server();
    let port = first.port();
    assert!(matches!(StoreServer::start(HOST, port, SHORT), Err(Error::Store { port: named, .. }) if named == port));
    drop(first);
    StoreServer::start(HOST, port, SHORT).unwrap();
}

/// A rank in a process of its own: this test binary, told by its environment to run `child`.
struct Peer {
    process: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Peer {
    fn spawn(mode: &str, arguments: &str) -> Self {
        let mut process = Command::new(env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env(CHILD, format!("{mode} {arguments}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Self { process, output }
    }

    /// A rank that joins, says so, and then does nothing at all.
    fn join(at: &Rendezvous, rank: usize, world: usize, timeout: Duration) -> Self {
        Self::spawn("idle", &format!("{} {} {rank} {world} {}", at.port, at.prefix, timeout.as_secs()))
    }

    fn wait_until_ready(&mut self) {
        let mut line = String::new();
        while !line.contains("ready") {
            line.clear();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "the peer ended early");
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn child() {
    let Ok(task) = env::var(CHILD) else { return };
    match task.split_whitespace().collect::<Vec<_>>()[..] {
        ["nccl"] => nccl_contract(),
        ["idle", port, prefix, rank, world, seconds] => {
            let number = |text: &str| text.parse::<usize>().unwrap();
            let (port, prefix) = (number(port) as u16, prefix.into());
            let place = Rendezvous { host: HOST.into(), port, prefix, patience: LONG };
            quiet_native_logs();
            let timeout = Duration::from_secs(number(seconds) as u64);
            let _group = Gloo::join(&place, number(rank), number(world), HOST, timeout).unwrap();
            println!("ready");
            std::io::stdout().flush().unwrap();
            let _ = std::io::stdin().read(&mut [0]);
        }
        _ => panic!("what is `{task}`?"),
    }
}

fn nccl_contract() {
    let loaded = load_cuda();
    if let Err(why) = nccl::available() {
        if let CudaState::Absent(reason) = loaded {
            assert!(reason.contains("libtorch_cuda"), "{reason}");
        }
        println!("SKIPPED nccl: {why}");
        return;
    }
    let server = server();
    let mut group = Nccl::join(&at(&server, "nccl"), 0, 1, 0, LONG).unwrap();
    contract(&group, Device::Cuda(0));
    group.abort();
    assert!(matches!(group.barrier(), Err(Error::TornDown { .. })));
    println!("nccl: kept the contract");
}
