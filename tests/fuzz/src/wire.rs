//! Requests as any peer may send them, to the services themselves: decoding, the wire's limits, conversion, handlers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{LazyLock, Once};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use ingest::{Ingest, Limits, Record};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use perennial_proto::limits::{MAX_FRAME_BYTES, MAX_MESSAGE_BYTES};
use perennial_proto::v1::import_version_request::Part;
use perennial_proto::{DESCRIPTORS, v1};
use prost::Message;
use prost_types::FileDescriptorSet;
use registry::{Evaluations, ModelLimits, Pipelines, Registry};
use rehearsal::Rehearsal;
use scheduler::{Moment, Runs, Scheduler, Terms, Workers};
use sha2::{Digest, Sha256};
use store::journal::Journal;
use store::roots::Roots;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codec::CompressionEncoding;
use tonic::service::{Routes, RoutesBuilder};
use tonic::transport::{Channel, Endpoint};
use tower::ServiceExt;

/// What a control plane with two pipelines has recorded: chunks, runs and versions of `p`; `q` takes an adapter.
const HISTORY: &str = include_str!("history.jsonl");
/// Of a call: the next message belongs to the same request.
const MORE: u8 = 0x80;
/// Of a message: it says that it is compressed.
const PACKED: u8 = 0x40;
/// A stream of answers that goes on is left after this long, on a clock that waits for nobody.
const PATIENCE: Duration = Duration::from_secs(5);

/// `/package.Service/Method` of every method there is.
static METHODS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let files = FileDescriptorSet::decode(DESCRIPTORS).expect("our own descriptors").file;
    let services = files.iter().flat_map(|file| file.service.iter().map(move |service| (file.package(), service)));
    let methods = services.flat_map(|(package, service)| {
        service.method.iter().map(move |method| format!("/{package}.{}/{}", service.name(), method.name()))
    });
    methods.collect()
});

/// One request: a method, and its messages with whether they say that they are compressed.
struct Call {
    method: usize,
    messages: Vec<(bool, Vec<u8>)>,
}

/// A byte for the method and the two flags, two for the length, and the message; as often as there are bytes.
fn calls(mut input: &[u8]) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    let mut goes_on = false;
    while let [head, low, high, rest @ ..] = input {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let message = (head & PACKED != 0, rest[..length].to_vec());
        match calls.last_mut().filter(|_| goes_on) {
            Some(call) => call.messages.push(message),
            None => {
                let method = usize::from(head & !(MORE | PACKED)) % METHODS.len();
                calls.push(Call { method, messages: vec![message] });
            }
        }
        (goes_on, input) = (head & MORE != 0, &rest[length..]);
    }
    calls
}

/// Any requests, one after the other, to a control plane that has a history.
pub fn requests(input: &[u8]) {
    answers(input);
}

/// Bytes of the answer to each; an error is told beside the answer, which is empty then.
pub fn answers(input: &[u8]) -> Vec<usize> {
    answered(&calls(input))
}

/// An adapter that PEFT saved, sent to the pipeline that takes one: the parts between zeros are its `adapter_config.json`,
/// `labels.json` and `perennial_manifest.json`.
pub fn adapter(input: &[u8]) {
    let mut parts = input.splitn(3, |&byte| byte == 0).map(<[u8]>::to_vec);
    let header = v1::ImportHeader { pipeline: "namespaces/default/pipelines/q".to_owned(), base_sha256: String::new() };
    let mut messages = vec![Part::Header(header)];
    let mut file = |name: &str, content: Option<Vec<u8>>| {
        if let Some(content) = content {
            messages.extend([Part::File(name.to_owned()), Part::Frame(content)]);
        }
    };
    file("adapter_config.json", parts.next());
    file("adapter_model.safetensors", Some(b"tensors".to_vec()));
    file("labels.json", parts.next().filter(|text| !text.is_empty()));
    file("perennial_manifest.json", parts.next());
    let encoded = |part| (false, v1::ImportVersionRequest { part: Some(part) }.encode_to_vec());
    let messages = messages.into_iter().map(encoded).collect();
    answered(&[Call { method: method("ImportVersion"), messages }]);
}

/// The number of a method in an input of [`requests`].
pub fn method(name: &str) -> usize {
    METHODS.iter().position(|path| path.ends_with(&format!("/{name}"))).expect("a method of ours")
}

/// A panic in a task of a service is caught there; here it is one all the same.
fn answered(calls: &[Call]) -> Vec<usize> {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.fetch_add(1, Relaxed);
            eprintln!("{info}");
            before(info);
        }));
    });
    let panics = PANICS.load(Relaxed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let answers = runtime.expect("a runtime can be made").block_on(async {
        let shutdown = CancellationToken::new();
        let routes = services(&shutdown).await;
        let mut answers = Vec::new();
        for call in calls {
            answers.push(ask(routes.clone(), call).await);
        }
        shutdown.cancel();
        answers
    });
    assert_eq!(PANICS.load(Relaxed), panics, "a task of a service panicked");
    answers
}

/// Bytes of the answer.
async fn ask(routes: Routes, call: &Call) -> usize {
    let mut body = BytesMut::new();
    for (packed, message) in &call.messages {
        body.put_u8(u8::from(*packed));
        body.put_u32(message.len() as u32);
        body.put_slice(message);
    }
    let request = http::Request::post(&METHODS[call.method])
        .header("content-type", "application/grpc")
        .header("grpc-encoding", "zstd")
        .body(Body::new(http_body_util::Full::new(body.freeze())));
    let answer = async {
        let response = routes.oneshot(request.expect("a request")).await.expect("routes always answer");
        let mut body = http_body_util::BodyStream::new(response.into_body());
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.next().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
        }
        bytes
    };
    tokio::time::timeout(PATIENCE, answer).await.unwrap_or_default()
}

async fn services(shutdown: &CancellationToken) -> Routes {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    for (number, record) in (1..).zip(HISTORY.lines()) {
        let sum = hex::encode(&Sha256::digest(record)[..8]);
        let path = format!("log/{number:020}.json");
        store.put(&path.into(), format!("{record}\n{sum}\n").into()).await.expect("memory takes everything");
    }
    let journal = Arc::new(Journal::open(store.clone(), "fuzz", now).await.expect("the history is whole"));
    let second = Duration::from_secs(1);
    let terms = Terms { heartbeat: second, lease: second, collective: second, stall: second };
    let scheduler = Scheduler::new(journal.clone(), terms, || Moment { at: now(), ticks: 0 }, shutdown.clone());
    let models = ModelLimits { max_model_bytes: 1 << 20, max_frame_bytes: MAX_FRAME_BYTES };
    let (log, objects) = (|| journal.clone(), || store.clone());
    let registry = Registry::new(log(), objects(), "memory:///".to_owned(), models, roots());
    let ingest = Ingest::new(objects(), roots(), nobody(), Limits::default(), now);
    let mut routes = RoutesBuilder::default();
    macro_rules! add {
        ($module:ident::$server:ident, $service:expr) => {
            routes.add_service(
                v1::$module::$server::new($service)
                    .max_decoding_message_size(MAX_MESSAGE_BYTES)
                    .accept_compressed(CompressionEncoding::Zstd),
            );
        };
    }
    add!(pipeline_service_server::PipelineServiceServer, Pipelines::new(log(), roots(), roots()));
    add!(chunk_service_server::ChunkServiceServer, Record::new(log(), objects()));
    add!(rehearsal_service_server::RehearsalServiceServer, Rehearsal::new(log(), objects()));
    add!(run_service_server::RunServiceServer, Runs(scheduler.clone()));
    add!(worker_service_server::WorkerServiceServer, Workers(scheduler));
    add!(evaluation_service_server::EvaluationServiceServer, Evaluations(log()));
    add!(registry_service_server::RegistryServiceServer, registry);
    add!(ingest_service_server::IngestServiceServer, ingest);
    routes.routes()
}

fn now() -> domain::Timestamp {
    1_000_000
}

fn roots() -> Roots {
    Roots::new::<&str>(&[]).expect("no root is none that cannot be used")
}

/// A control role that cannot be reached: what ingest asks it comes after everything that is looked at here.
fn nobody() -> Channel {
    let refuse = |_: http::Uri| async { Err::<hyper_util::rt::TokioIo<tokio::io::DuplexStream>, _>(refused()) };
    Endpoint::from_static("http://nobody").connect_with_connector_lazy(tower::service_fn(refuse))
}

fn refused() -> std::io::Error {
    std::io::ErrorKind::ConnectionRefused.into()
}

/// A message of an input of [`requests`].
pub fn call(method: &str, more: bool, message: &impl Message) -> Vec<u8> {
    let message: Bytes = message.encode_to_vec().into();
    let head = self::method(method) as u8 | if more { MORE } else { 0 };
    [&[head], &(message.len() as u16).to_le_bytes()[..], &message].concat()
}
