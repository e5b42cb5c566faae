//! One gRPC server with everything that a process offers.

use std::io;
use std::time::Duration;

use futures::Stream;
use perennial_proto::DESCRIPTORS;
use perennial_proto::limits::MAX_FRAME_BYTES;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::Connected;

use crate::role::Services;

/// Bytes of one stream that may be under way.
const STREAM_WINDOW: u32 = 4 << 20;

pub async fn serve<I>(
    incoming: impl Stream<Item = io::Result<I>>,
    services: Services,
    shutdown: CancellationToken,
) -> anyhow::Result<()>
where
    I: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let (health, health_service) = tonic_health::server::health_reporter();
    for name in services.names.iter().chain(&[""]) {
        health.set_service_status(name, tonic_health::ServingStatus::Serving).await;
    }
    let reflection =
        || tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(DESCRIPTORS);
    Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        // A payload's frames travel whole, and some of them at a time, however far away their producer is.
        .max_frame_size(MAX_FRAME_BYTES as u32)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(4 * STREAM_WINDOW)
        .add_routes(services.routes.routes())
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned())
        .await?;
    Ok(())
}
