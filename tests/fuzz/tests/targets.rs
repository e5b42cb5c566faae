//! Plain `cargo test` feeds each target what is stored beside this file and some bytes of no sense; `make fuzz` searches.

use perennial_fuzz::{documents, heap, log, rows, wire};
use perennial_proto::v1;

/// Beside the input: generous, and nothing that grows with what an input claims.
const MEMORY: usize = 256 << 20;
/// An image may take 512 MiB to decode, whatever its own size.
const WITH_IMAGE: usize = MEMORY + (512 << 20);
/// Bytes of no sense that plain tests try; the search is the fuzzer's.
const TRIES: usize = 200;

macro_rules! targets {
    ($($name:ident: $target:path, $memory:expr;)*) => {
        $(#[test]
        fn $name() {
            bolero::check!().with_iterations(TRIES).for_each(|input: &[u8]| heap::within($memory, || $target(input)));
        })*
    };
}

targets! {
    jsonl: rows::jsonl, WITH_IMAGE;
    csv: rows::csv, WITH_IMAGE;
    tsv: rows::tsv, WITH_IMAGE;
    parquet: rows::parquet, WITH_IMAGE;
    tar: rows::tar, WITH_IMAGE;
    intake: rows::intake, WITH_IMAGE;
    labels: rows::labels, MEMORY;
    shard: rows::shard, MEMORY;
    pipeline: documents::pipeline, MEMORY;
    spec_json: documents::spec_json, MEMORY;
    config: documents::config, MEMORY;
    manifest: documents::manifest, MEMORY;
    record: log::record, MEMORY;
    adapter: wire::adapter, MEMORY;
    requests: wire::requests, MEMORY;
}

/// Or the search would try nothing but the refusal of a route.
#[test]
fn requests_reach_the_services() {
    let get = |name: &str| v1::GetPipelineRequest { name: name.to_owned() };
    let known = wire::call("GetPipeline", false, &get("namespaces/default/pipelines/q"));
    let input = [known, wire::call("GetPipeline", false, &get("q"))].concat();
    let [known, unknown] = wire::answers(&input)[..] else { panic!("two requests have two answers") };
    assert!(known > 100 && unknown == 0, "{known} and {unknown} bytes");
}
