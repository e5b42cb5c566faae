//! How the daemon comes up, is looked at, and goes.

use perennial_proto::v1::{self, Split};
use perennial_tests::cluster::pipeline;
use perennial_tests::digits::clean;
use perennial_tests::{Cluster, Options};
use serde_json::json;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

const SERVICES: [&str; 8] = [
    v1::chunk_service_server::SERVICE_NAME,
    v1::evaluation_service_server::SERVICE_NAME,
    v1::ingest_service_server::SERVICE_NAME,
    v1::pipeline_service_server::SERVICE_NAME,
    v1::registry_service_server::SERVICE_NAME,
    v1::rehearsal_service_server::SERVICE_NAME,
    v1::run_service_server::SERVICE_NAME,
    v1::worker_service_server::SERVICE_NAME,
];

#[tokio::test]
async fn sigterm_in_the_middle_of_a_run_ends_worker_and_daemon_in_time() {
    let mut cluster = Cluster::start(Options::default()).await;
    let mut spec = pipeline("digits");
    spec["training"]["epochs"] = json!(1000);
    cluster.apply(&spec).await.unwrap();
    cluster.push("digits", "domain-0", Split::Auto, &clean(3, 0, 800)).await.unwrap();
    let run = cluster.start_run("digits", &[]).await.unwrap();
    cluster.watch(&run.name, |run| run.progress.as_ref().is_some_and(|at| at.step > 10)).await;
    assert_eq!(cluster.processes("--die-with-parent").len(), 1);
    // A client that goes on watching must not hold up the end.
    let watch = v1::WatchRunRequest { name: run.name };
    let mut watched = cluster.runs().watch_run(watch).await.unwrap().into_inner();
    let status = cluster.terminate().await;
    assert_eq!(status.code(), Some(0), "{status}: {}", cluster.last_log());
    assert_eq!(cluster.processes("--die-with-parent"), Vec::<u32>::new());
    while let Ok(Some(update)) = watched.message().await {
        assert_eq!(update.run.unwrap().ended_at_ms, 0, "the run waits for the next daemon");
    }
}

#[tokio::test]
async fn each_service_is_healthy_by_name_and_found_by_reflection() {
    let cluster = Cluster::start(Options::default()).await;
    let mut health = HealthClient::new(cluster.channel());
    for service in SERVICES {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
    assert!(SERVICES.contains(&"perennial.v1.RunService"));
    let unknown = HealthCheckRequest { service: "perennial.v1.Nobody".to_owned() };
    assert_eq!(health.check(unknown).await.unwrap_err().code(), Code::NotFound);

    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(cluster.channel());
    let mut answers = client.server_reflection_info(futures::stream::iter([list])).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(listed)) = answer else { panic!("{answer:?}") };
    let names: Vec<String> = listed.service.into_iter().map(|service| service.name).collect();
    assert!(SERVICES.iter().all(|service| names.iter().any(|name| name == service)), "{names:?}");
}
