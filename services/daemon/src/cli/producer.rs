//! Producers that number their pushes.

use domain::id::{PipelineName, ProducerName};
use perennial_proto::v1;
use serde::Serialize;

use super::client::{Context, all_pages, present};
use super::failure::Failure;
use super::output::{Render, table};

/// Gives the producer its next epoch.
pub async fn open(ctx: &Context, pipeline: &PipelineName, name: &ProducerName) -> Result<v1::Producer, Failure> {
    let request = v1::OpenProducerRequest { pipeline: ctx.pipeline(pipeline), producer: name.to_string() };
    present(ctx.chunks().await?.open_producer(ctx.request(request)).await?.into_inner().producer)
}

pub async fn list(ctx: &Context, pipeline: &PipelineName) -> Result<(), Failure> {
    let mut client = ctx.chunks().await?;
    let producers = all_pages(async |page_token| {
        let request = v1::ListProducersRequest { parent: ctx.pipeline(pipeline), page_size: 0, page_token };
        let page = client.list_producers(ctx.request(request)).await?.into_inner();
        Ok((page.producers, page.next_page_token))
    });
    let producers = producers.await?.into_iter().map(ProducerView::from).collect();
    ctx.show(&ProducerList { producers })
}

#[derive(Serialize)]
struct ProducerView {
    producer: String,
    epoch: u64,
    next_sequence: u64,
}

#[derive(Serialize)]
struct ProducerList {
    producers: Vec<ProducerView>,
}

impl From<v1::Producer> for ProducerView {
    fn from(wire: v1::Producer) -> Self {
        Self { producer: wire.name, epoch: wire.epoch, next_sequence: wire.next_sequence }
    }
}

impl Render for ProducerList {
    fn text(&self) -> String {
        let rows =
            self.producers.iter().map(|p| [p.producer.clone(), p.epoch.to_string(), p.next_sequence.to_string()]);
        table(["producer", "epoch", "next"], rows, "no producer numbers its pushes")
    }
}
