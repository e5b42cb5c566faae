//! Adapters as PEFT names their tensors: taken under every name, and refused where a tensor fits nothing.

mod support;

use std::fs;
use std::path::Path;

use domain::manifest::Manifest;
use perennial_learn::assemble::{Assembled, assemble};
use perennial_learn::data::Reader;
use perennial_learn::data::images::Preprocess;
use perennial_learn::import::import;
use perennial_learn::model::Net;
use perennial_learn::{Flat, publish};
use serde_json::json;
use support::{IMAGES, VIT, manifest, sample, sources};
use tch::{Kind, Tensor};

const WEIGHTS: &str = "adapter_model.safetensors";
const QUERY: &str = "base_model.model.encoder.layer.0.attention.attention.query.lora_A.weight";

/// Adapters of all but the key, so that every name that changed is among them.
fn run() -> Manifest {
    let targets = ["query", "value", "dense"];
    manifest(json!({
        "model": VIT, "adapter": {"lora": {"r": 3, "alpha": 6.0, "target_modules": targets}},
        "input": {"channels": 1, "image_size": 8},
    }))
}

/// Publishes a version with adapters and a head other than the first, and returns its net.
fn version(run: &Manifest, out: &Path) -> Net {
    let Assembled { net, trained, reader } = assemble(sources(run, None), &sample()).unwrap();
    let mut flat = Flat::over(trained);
    {
        let _guard = tch::no_grad_guard();
        flat.values += slope(&flat.values);
    }
    let snapshot = domain::buffer::Snapshot::empty(run.pipeline.policy(), 4, 0);
    let (pipeline, labels, trained) = (&run.pipeline, &run.labels, flat.named());
    let (net, reader, snapshot) = (net, &reader, &snapshot);
    let publication = publish::Publication {
        pipeline,
        labels,
        net: &net,
        trained,
        reader,
        snapshot,
        carried: &perennial_learn::Carried::default(),
        means: None,
        imported: false,
    };
    publish::publish(out, &publication).unwrap();
    net
}

/// From −0.1 to 0.1.
fn slope(like: &Tensor) -> Tensor {
    Tensor::linspace(-0.1, 0.1, like.numel() as i64, (Kind::Float, like.device())).view_as(like)
}

fn logits(net: &Net) -> Tensor {
    let _guard = tch::no_grad_guard();
    let reader = Reader::Images(Preprocess::unit(IMAGES));
    net.forward(&reader.apply(support::dataset(&support::rows(6, 1)).take(&support::span(0, 6)).0))
}

/// Keeps of a file's tensors what `rename` returns.
fn rewrite(file: &Path, rename: impl Fn(&str, Tensor) -> Option<(String, Tensor)>) {
    let tensors = Tensor::read_safetensors(file).unwrap();
    let kept: Vec<_> = tensors.into_iter().filter_map(|(name, tensor)| rename(&name, tensor)).collect();
    Tensor::write_safetensors(&kept, file).unwrap();
}

fn is_of_transformers_5(name: &str) -> bool {
    name.contains("model.layers.")
}

fn refused(run: &Manifest, folder: &Path) -> String {
    let error = import(sources(run, None), folder).err().expect("it is refused");
    assert!(error.is_permanent(), "{error}");
    error.to_string()
}

#[test]
fn either_naming_with_or_without_prefix_gives_a_version_s_own_logits() {
    let run = run();
    for newer in [false, true] {
        for prefix in ["", "vit."] {
            let home = tempfile::tempdir().unwrap();
            let published = logits(&version(&run, home.path()));
            let loaded = assemble(sources(&run, Some(home.path())), &sample()).unwrap();
            rewrite(&home.path().join(WEIGHTS), |name, tensor| {
                let path = name.strip_prefix("base_model.model.").unwrap();
                (is_of_transformers_5(name) == newer).then(|| (format!("base_model.model.{prefix}{path}"), tensor))
            });
            let imported = import(sources(&run, None), home.path()).unwrap();
            let found = logits(&imported.net);
            assert!(found.equal(&logits(&loaded.net)) && found.equal(&published), "{newer} `{prefix}`");
        }
    }
}

#[test]
fn a_version_comes_back_as_it_was_published() {
    let (run, home) = (run(), tempfile::tempdir().unwrap());
    let published = logits(&version(&run, home.path()));
    assert!(logits(&import(sources(&run, None), home.path()).unwrap().net).equal(&published));
}

#[test]
fn a_head_comes_from_its_file_else_from_the_classifier_else_from_the_seed() {
    let (run, home) = (run(), tempfile::tempdir().unwrap());
    let of_version = version(&run, home.path()).head;
    let own = home.path().join("head.safetensors");
    let head = |run: &Manifest| import(sources(run, None), home.path()).unwrap().net.head;
    assert!(head(&run).weight.equal(&of_version.weight));

    fs::remove_file(&own).unwrap();
    let seeds = assemble(sources(&run, None), &sample()).unwrap().net.head;
    assert!(head(&run).weight.equal(&seeds.weight));

    let (weight, bias) =
        (Tensor::full([3, 16], 0.5, (Kind::Float, tch::Device::Cpu)), Tensor::from_slice(&[1f32, 2., 3.]));
    let mut tensors = Tensor::read_safetensors(home.path().join(WEIGHTS)).unwrap();
    tensors.push(("base_model.model.classifier.weight".to_owned(), weight.shallow_clone()));
    tensors.push(("base_model.model.classifier.bias".to_owned(), bias.shallow_clone()));
    Tensor::write_safetensors(&tensors, home.path().join(WEIGHTS)).unwrap();
    let found = head(&run);
    assert!(found.weight.equal(&weight) && found.bias.equal(&bias));

    let mut grown = run.clone();
    grown.labels.push("d".to_owned());
    let found = head(&grown);
    assert!(found.weight.narrow(0, 0, 3).equal(&weight) && found.weight.size() == [4, 16]);
    fs::remove_file(home.path().join("labels.json")).unwrap();
    let reason = refused(&grown, home.path());
    assert!(reason.ends_with("tensor `weight` has shape [3, 16], expected [4, 16]"), "{reason}");
}

#[test]
fn a_tensor_that_fits_nothing_is_named_beside_what_is_adapted() {
    let (run, home) = (run(), tempfile::tempdir().unwrap());
    version(&run, home.path());
    let key = "base_model.model.encoder.layer.0.attention.attention.key.lora_A.weight";
    let mut tensors = Tensor::read_safetensors(home.path().join(WEIGHTS)).unwrap();
    tensors.push((key.to_owned(), Tensor::zeros([3, 16], (Kind::Float, tch::Device::Cpu))));
    Tensor::write_safetensors(&tensors, home.path().join(WEIGHTS)).unwrap();
    let reason = refused(&run, home.path());
    assert!(reason.contains(&format!("nothing here takes `{key}`; the pipeline adapts ")), "{reason}");
    assert!(
        reason.contains("encoder.layer.N.attention.attention.query, encoder.layer.N.attention.attention.value, "),
        "{reason}"
    );
}

#[test]
fn a_tensor_that_is_absent_misshapen_or_not_finite_is_named() {
    type Change = fn(Tensor) -> Option<Tensor>;
    let cases: [(Change, String); 3] = [
        (|_| None, format!("has no tensor `{QUERY}`")),
        (|_| Some(Tensor::from_slice(&[0f32; 15])), format!("tensor `{QUERY}` has shape [15], expected [3, 16]")),
        (|tensor| Some(tensor * f64::NAN), format!("tensor `{QUERY}` holds NaN or infinite values")),
    ];
    for (change, said) in cases {
        let (run, home) = (run(), tempfile::tempdir().unwrap());
        version(&run, home.path());
        rewrite(&home.path().join(WEIGHTS), |name, tensor| {
            let tensor = if name == QUERY { change(tensor) } else { Some(tensor) };
            tensor.filter(|_| !is_of_transformers_5(name)).map(|tensor| (name.to_owned(), tensor))
        });
        let reason = refused(&run, home.path());
        assert!(reason.ends_with(&said), "{reason}");
    }
}

#[test]
fn one_module_under_two_names_has_one_value() {
    let (run, home) = (run(), tempfile::tempdir().unwrap());
    version(&run, home.path());
    rewrite(&home.path().join(WEIGHTS), |name, tensor| {
        let tensor = if name == QUERY { tensor + 1.0 } else { tensor };
        Some((name.to_owned(), tensor))
    });
    let reason = refused(&run, home.path());
    assert!(reason.contains(QUERY) && reason.contains("q_proj") && reason.contains("differ"), "{reason}");
}

#[test]
fn a_model_that_nobody_gave_a_size_needs_one_where_no_row_shows_it() {
    let (mut run, home) = (run(), tempfile::tempdir().unwrap());
    version(&run, home.path());
    let mut spec = domain::pipeline::Spec::from(run.pipeline.clone());
    spec.input = domain::pipeline::Input::default();
    run.pipeline = spec.try_into().unwrap();
    assert!(import(sources(&run, None), home.path()).is_ok(), "its preprocessor_config.json says it");
    fs::remove_file(home.path().join("preprocessor_config.json")).unwrap();
    let reason = refused(&run, home.path());
    assert!(reason.contains("`input.channels` and `input.image_size`"), "{reason}");
}
