//! Reaching the server: limits, deadlines, pages.

use std::time::Duration;

use domain::id::{Namespace, PipelineName};
use perennial_proto::limits::MAX_MESSAGE_BYTES;
use perennial_proto::v1;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::failure::Failure;
use super::output::{Output, Render};

#[derive(clap::Args)]
#[command(next_help_heading = "Global options")]
pub struct Globals {
    /// Where perenniald listens
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "PERENNIAL_SERVER",
        hide_env_values = true,
        default_value = "http://127.0.0.1:7420"
    )]
    server: String,
    #[arg(long, global = true, hide = true, env = "PERENNIAL_NAMESPACE", default_value = "default")]
    namespace: Namespace,
    /// A table to read, or one JSON document
    #[arg(short, long, global = true, value_name = "FORMAT")]
    pub output: Option<Output>,
    /// Longest wait for an answer
    #[arg(long, global = true, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// What every command needs.
pub struct Context {
    server: String,
    namespace: Namespace,
    output: Output,
    pub timeout: Duration,
}

macro_rules! clients {
    ($($method:ident: $module:ident::$client:ident),* $(,)?) => {
        impl Context {
            $(pub async fn $method(&self) -> Result<v1::$module::$client<Channel>, Failure> {
                let client = v1::$module::$client::new(self.connect().await?);
                Ok(client.max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES))
            })*
        }
    };
}

clients! {
    pipelines: pipeline_service_client::PipelineServiceClient,
    chunks: chunk_service_client::ChunkServiceClient,
    ingest: ingest_service_client::IngestServiceClient,
    runs: run_service_client::RunServiceClient,
    registry: registry_service_client::RegistryServiceClient,
    rehearsal: rehearsal_service_client::RehearsalServiceClient,
    evaluations: evaluation_service_client::EvaluationServiceClient,
}

impl Context {
    pub fn new(globals: Globals) -> Self {
        Self {
            server: globals.server,
            namespace: globals.namespace,
            output: globals.output.unwrap_or_default(),
            timeout: globals.timeout,
        }
    }

    /// `namespaces/{namespace}`
    pub fn parent(&self) -> String {
        format!("namespaces/{}", self.namespace)
    }

    /// `namespaces/{namespace}/pipelines/{pipeline}`
    pub fn pipeline(&self, name: &PipelineName) -> String {
        format!("{}/pipelines/{name}", self.parent())
    }

    /// The pipeline file may name its namespace; the flag is for where it does not.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    pub fn show(&self, result: &impl Render) -> Result<(), Failure> {
        self.output.print(result)
    }

    /// A request that ends, one way or the other, within `--timeout`.
    pub fn request<T>(&self, message: T) -> Request<T> {
        within(self.timeout, message)
    }

    async fn connect(&self) -> Result<Channel, Failure> {
        if !self.server.starts_with("http://") {
            let server = &self.server;
            return Err(Failure::Usage(format!(
                "`{server}` is not a server: write a URL such as http://127.0.0.1:7420"
            )));
        }
        let endpoint = Endpoint::from_shared(self.server.clone())
            .map_err(|error| Failure::Usage(format!("`{}` is not a server's URL: {error}", self.server)))?
            .connect_timeout(self.timeout.min(Duration::from_secs(5)))
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(20))
            .keep_alive_while_idle(true);
        endpoint
            .connect()
            .await
            .map_err(|error| Failure::Unreachable { server: self.server.clone(), reason: root_cause(&error) })
    }
}

pub fn within<T>(deadline: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}

/// The last of a chain: "connection refused" rather than "transport error".
fn root_cause(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.last().map_or_else(String::new, ToString::to_string)
}

/// Every page of a list, from a function of the page's token.
pub async fn all_pages<T>(
    mut page: impl AsyncFnMut(String) -> Result<(Vec<T>, String), Status>,
) -> Result<Vec<T>, Failure> {
    let (mut items, mut token) = (Vec::new(), String::new());
    loop {
        let (more, next) = page(token).await?;
        items.extend(more);
        if next.is_empty() {
            return Ok(items);
        }
        token = next;
    }
}

/// What the wire may leave out and a server never should.
pub fn present<T>(part: Option<T>) -> Result<T, Failure> {
    part.ok_or_else(|| Failure::Failed("the server's answer is incomplete; are both of the same release?".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pages_are_read_to_the_end() {
        let page = async |token: String| {
            let from: u32 = token.parse().unwrap_or(0);
            let next = if from < 4 { (from + 2).to_string() } else { String::new() };
            Ok((vec![from, from + 1], next))
        };
        assert_eq!(all_pages(page).await.unwrap(), [0, 1, 2, 3, 4, 5]);
    }
}
