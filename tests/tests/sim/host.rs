//! Machines and the processes on them: the daemon's own roles, started, killed, put to sleep, started again.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use domain::Timestamp;
use perennial::config::Config;
use perennial::role::{Machine, Node, Role};
use perennial::standby::Standby;
use scheduler::Moment;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::life::{Life, Pace};
use crate::net::{CONTROL, dial};
use crate::store::Store;
use crate::worker;
use crate::world::World;

/// Their clocks differ; workers have none.
pub const HOSTS: [&str; 6] = ["control-1", "control-2", "ingest-1", "ingest-2", "worker-1", "worker-2"];
/// When simulations begin: late in 2023, in milliseconds.
const BEGIN: u64 = 1_700_000_000_000;
/// The furthest that a clock is off, in milliseconds.
const SKEW: u64 = 3_600_000;

struct Clocks {
    start: Instant,
    /// How far ahead of the true time each is, plus [`SKEW`].
    ahead: [u64; HOSTS.len()],
}

thread_local! {
    static CLOCKS: RefCell<Option<Clocks>> = const { RefCell::new(None) };
}

fn elapsed() -> u64 {
    CLOCKS.with_borrow(|clocks| clocks.as_ref().expect("the clocks are set").start.elapsed().as_millis() as u64)
}

fn now<const HOST: usize>() -> Timestamp {
    let ahead = CLOCKS.with_borrow(|clocks| clocks.as_ref().expect("the clocks are set").ahead[HOST]);
    BEGIN - SKEW + elapsed() + ahead
}

fn moment<const HOST: usize>() -> Moment {
    Moment { at: now::<HOST>(), ticks: elapsed() }
}

type Clock = (fn() -> Timestamp, fn() -> Moment);

/// A process has no room for what its clock depends on.
fn clock(host: usize) -> Clock {
    match host {
        0 => (now::<0>, moment::<0>),
        1 => (now::<1>, moment::<1>),
        2 => (now::<2>, moment::<2>),
        _ => (now::<3>, moment::<3>),
    }
}

/// The processes that run.
#[derive(Default)]
pub struct Hosts {
    lives: Mutex<BTreeMap<&'static str, Arc<Life>>>,
}

impl Hosts {
    /// Starts everything, and again whenever it ends.
    pub fn start(world: &Arc<World>) -> Arc<Self> {
        let clocks = Clocks { start: Instant::now(), ahead: [SKEW; HOSTS.len()] };
        CLOCKS.set(Some(clocks));
        let hosts = Arc::new(Self::default());
        for (number, name) in HOSTS.into_iter().enumerate() {
            tokio::spawn(hosts.clone().keep(world.clone(), number, name));
        }
        hosts
    }

    async fn keep(self: Arc<Self>, world: Arc<World>, number: usize, name: &'static str) {
        loop {
            let life = Life::new();
            self.lives.lock().unwrap().insert(name, life.clone());
            if world.setting.skews {
                let ahead = world.dice.below(2 * SKEW);
                CLOCKS.with_borrow_mut(|clocks| clocks.as_mut().expect("the clocks are set").ahead[number] = ahead);
            }
            world.note(name, "starts");
            let mut process = tokio::spawn(process(world.clone(), number, life.clone()));
            tokio::select! {
                ended = &mut process => {
                    let how = match ended {
                        Ok(Ok(())) => "it was asked to".to_owned(),
                        Ok(Err(error)) => format!("{error:#}"),
                        Err(panic) => world.broken(format!("{name} broke: {panic}")),
                    };
                    world.note(name, format!("ends: {how}"));
                }
                () = life.died() => world.note(name, "was killed"),
            }
            process.abort();
            // What it leaves behind reaches nobody any more.
            life.set(Pace::Dead { told: true });
            sleep(world.dice.time(100, if world.is_wild() { 6000 } else { 1000 })).await;
        }
    }

    pub fn life(&self, name: &str) -> Arc<Life> {
        self.lives.lock().unwrap()[name].clone()
    }

    pub fn wake_all(&self) {
        self.lives.lock().unwrap().values().for_each(|life| life.set(Pace::Runs));
    }
}

async fn process(world: Arc<World>, host: usize, life: Arc<Life>) -> anyhow::Result<()> {
    match HOSTS[host] {
        name if name.starts_with("worker") => worker::run(world, name, life).await,
        _ => daemon(world, host, life).await,
    }
}

/// As `perenniald` starts itself, but for the machine.
async fn daemon(world: Arc<World>, host: usize, life: Arc<Life>) -> anyhow::Result<()> {
    let name = HOSTS[host];
    let (now, moment) = clock(host);
    let machine = Machine { now, moment, dial: dial(&world, name, &life) };
    let url = format!("http://{name}:7420");
    let config = Config {
        store: "memory:///".to_owned(),
        control: Some(format!("http://{CONTROL}:7420")),
        advertise: Some(url.clone()),
        recovery_budget: Duration::from_millis(world.setting.recovery_budget).try_into()?,
        ..Config::default()
    };
    let store = Arc::new(Store { world: world.clone(), host: name, life: life.clone() });
    let log = world.setting.log();
    let shutdown = CancellationToken::new();
    let (role, follower) = if name.starts_with(CONTROL) {
        let standby = Standby {
            store: store.clone(),
            machine: machine.clone(),
            log,
            listen: ([0, 0, 0, 0], 7420).into(),
            heartbeat: config.recovery_budget.timeouts().heartbeat,
            shutdown: shutdown.clone(),
        };
        (Role::Control, standby.wait().await?)
    } else {
        (Role::Ingest, None)
    };
    if role == Role::Control {
        world.note(name, "takes over");
    }
    let incoming = world.net.listen(name, &life);
    Node { config, store, url, machine, log, shutdown }.run(role, follower, incoming).await?;
    pending().await
}
