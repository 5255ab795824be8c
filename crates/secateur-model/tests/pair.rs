//! Checkpoints and graphs of the same network brought together: names, roles and companions. That
//! such a pair computes what the graph's own file computes is tested where it can be run.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::build::Build;
use half::f16;
use secateur_model::io::Source;
use secateur_model::model::Storage;
use secateur_model::ops::AxisRole;
use secateur_model::pair::{Paired, pair};
use secateur_model::prunable::{Companion, CompanionKind, Entry, PrunableView, ReasonKind, Status, view};
use secateur_model::{Attr, DType, Data, ErrorKind, Model, Patch, Tensor, TensorId, io};

fn shared() -> Option<PathBuf> {
    Some(common::shared()?.join("models"))
}

/// A file of `goldens/pair`, all written by `make.py` there.
fn golden(name: &str) -> Model {
    io::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/pair").join(name)).unwrap()
}

/// What a view says, without the names of nodes.
fn told(model: &Model) -> Vec<String> {
    let strip = |id: TensorId| {
        let path = &model.tensor(id).path;
        path.strip_prefix("module.").unwrap_or(path).to_string()
    };
    let companion = |c: &Companion| (strip(c.tensor), c.kind, c.exclusive);
    let line = |view: &PrunableView| {
        let followers: Vec<(String, CompanionKind, bool)> = view.followers.iter().map(companion).collect();
        let (roles, bias) = (&view.roles, view.bias.as_ref().map(companion));
        format!("{} {} {roles:?} {} {bias:?} {followers:?}", strip(view.tensor), view.op_type, view.groups)
    };
    let mut lines: Vec<String> = view(model).unwrap().iter().filter_map(|e| e.prunable()).map(line).collect();
    lines.sort();
    lines
}

/// A model with its tensors changed.
fn changed(model: &Model, mut change: impl FnMut(String, &mut Storage, &mut DType) -> String) -> Model {
    let mut model = Model { source: Source::memory(), ..model.clone() };
    for (path, mut stored) in std::mem::take(&mut model.tensors) {
        stored.path = change(path, &mut stored.storage, &mut stored.dtype);
        model.tensors.insert(stored.path.clone(), stored);
    }
    model
}

#[test]
fn resnets() {
    let Some(models) = shared() else { return };
    for (file, plain, graphs) in [
        ("resnet20-12fca82f.th", "resnet20.onnx", &["resnet20.onnx", "resnet20-bn-folded.onnx"][..]),
        (
            "resnet56-4bfd9763.th",
            "resnet56.onnx",
            &["resnet56.onnx", "resnet56-bn-folded.onnx", "resnet56-dynamo.onnx"],
        ),
    ] {
        let models = models.join("cifar10-resnet");
        let checkpoint = io::read(models.join(file)).unwrap();
        let expected = told(&io::read(models.join(plain)).unwrap());
        for graph in graphs {
            let Paired { model, unfolded, notes, .. } =
                pair(&checkpoint, &io::read(models.join(graph)).unwrap(), &|_| false).unwrap();
            assert_eq!(unfolded, if *graph == plain { 0 } else { expected.len() - 1 }, "{graph}");
            assert_eq!(told(&model), expected, "{graph}");
            assert!(notes.is_empty(), "{graph}: {notes:?}");
        }
    }
}

#[test]
fn a_transformer() {
    let Some(models) = shared() else { return };
    let models = models.join("vit-cifar10");
    let checkpoint = io::read(models.join("vit_cifar10.pth")).unwrap();
    let onnx = io::read(models.join("vit_cifar10.onnx")).unwrap();
    let Paired { model, matched, unfolded, notes } = pair(&checkpoint, &onnx, &|_| false).unwrap();
    assert_eq!((matched, unfolded), (checkpoint.tensors.len(), 0));
    assert!(notes.is_empty(), "{notes:?}");
    let views = |model: &Model| -> Vec<PrunableView> {
        let entries = view(model).unwrap();
        let mut views: Vec<_> = entries.iter().filter_map(|e| e.prunable().cloned()).collect();
        views.sort_by(|a, b| a.node.cmp(&b.node));
        views
    };
    let (paired, own) = (views(&model), views(&onnx));
    assert_eq!(paired.len(), own.len());
    for (paired, own) in paired.iter().zip(&own) {
        assert_eq!((&paired.node, &paired.op_type), (&own.node, &own.op_type));
        assert_eq!(paired.bias.as_ref().map(|b| &b.node), own.bias.as_ref().map(|b| &b.node));
        // The checkpoint has the outputs first, whatever the exporter made of it.
        assert_eq!(paired.roles[..2], [AxisRole::Out, AxisRole::In]);
        assert_eq!(paired.via.len(), usize::from(own.roles[0] == AxisRole::In), "{}", paired.node);
    }
}

#[test]
fn depthwise_convolutions_with_folded_batch_norms() {
    let Some(models) = shared() else { return };
    let models = models.join("mobilenetv1-025");
    let checkpoint = io::read(models.join("mobilenetV1X0.25_pretrain.tar")).unwrap();
    let onnx = io::read(models.join("mobilenetv1_025.onnx")).unwrap();
    let Paired { model, unfolded, notes, .. } = pair(&checkpoint, &onnx, &|_| false).unwrap();
    assert_eq!(unfolded, 27);
    assert!(notes.is_empty(), "{notes:?}");
    assert_eq!(model.tensors.len(), checkpoint.tensors.len());
    for entry in view(&model).unwrap() {
        let Some(view) = entry.prunable().filter(|v| v.op_type == "Conv") else { continue };
        // Each convolution of a sequence is followed by its batch-norm, the next number.
        let (parent, number) = view.module.rsplit_once('.').unwrap();
        let norm = format!("{parent}.{}", number.parse::<u32>().unwrap() + 1);
        let followers: Vec<&str> =
            view.followers.iter().map(|f| model.tensor(f.tensor).path.as_str()).collect();
        assert_eq!(followers, [format!("{norm}.weight"), format!("{norm}.bias")]);
        let depthwise = model.tensor(view.tensor).shape[1] == 1;
        assert_eq!(view.groups > 1, depthwise, "{}", view.module);
    }
}

#[test]
fn all_exports_of_a_network_mean_the_same() {
    let plain = told(&pair(&golden("net.safetensors"), &golden("script.onnx"), &|_| false).unwrap().model);
    let expect = |line: &str| assert!(plain.iter().any(|l| l.starts_with(line)), "{line} in {plain:#?}");
    expect(
        "conv1.weight Conv [Out, In, Spatial, Spatial] 1 None \
         [(\"bn1.weight\", NormScale, true), (\"bn1.bias\", NormBias, true)]",
    );
    expect(
        "up.weight ConvTranspose [In, Out, Spatial, Spatial] 2 Some((\"up.bias\", Bias, true)) [(\"bn3.weight\"",
    );
    expect("attn.in_proj_weight MatMul [Out, In] 1 Some((\"attn.in_proj_bias\", Bias, true)) []");
    expect(
        "head.weight Gemm [Out, In] 1 Some((\"head.bias\", Bias, true)) [(\"bn4.weight\", NormScale, true)",
    );
    assert_eq!(plain.len(), 8);
    for (graph, unfolded) in
        [("script.onnx", 0), ("script-folded.onnx", 2), ("dynamo.onnx", 0), ("dynamo-folded.onnx", 4)]
    {
        for checkpoint in ["net.safetensors", "trained.safetensors"] {
            let result = pair(&golden(checkpoint), &golden(graph), &|_| false);
            if (graph, checkpoint) == ("dynamo-folded.onnx", "trained.safetensors") {
                // The bias was zero when the network was exported, so that the exporter left it out.
                let error = result.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Input);
                assert!(error.to_string().contains("bias `attn.out_proj.bias` (f32 [4])"), "{error}");
                continue;
            }
            let paired = result.unwrap();
            assert_eq!(paired.unfolded, unfolded, "{graph} {checkpoint}");
            let mut told = told(&paired.model);
            if graph == "dynamo-folded.onnx" {
                let bias = "Some((\"attn.out_proj.bias\", Bias, true))";
                told.iter_mut()
                    .filter(|l| l.starts_with("attn.out_proj"))
                    .for_each(|l| *l = l.replace("None", bias));
            }
            assert_eq!(told, plain, "{graph} {checkpoint}");
            let guessed = unfolded > 0 && checkpoint == "trained.safetensors";
            assert_eq!(
                paired.notes.iter().any(|n| n.contains("told by name")),
                guessed,
                "{:?}",
                paired.notes
            );
        }
    }
}

#[test]
fn epsilon_follows_from_values() {
    for graph in ["script-folded.onnx", "dynamo-folded.onnx"] {
        let model = pair(&golden("net.safetensors"), &golden(graph), &|_| false).unwrap().model;
        let nodes = &model.graph.as_ref().unwrap().nodes;
        for (module, epsilon) in [("bn1", 1e-5), ("bn2", 1e-3)] {
            let norm =
                nodes.iter().find(|n| n.op_type == "BatchNormalization" && n.module == module).unwrap();
            assert_eq!(norm.float("epsilon").unwrap(), Some(epsilon), "{graph} {module}");
        }
    }
}

#[test]
fn written_back_it_is_the_checkpoint() {
    let checkpoint = golden("net.safetensors");
    let paired = pair(&checkpoint, &golden("script-folded.onnx"), &|_| false).unwrap().model;
    assert!(paired.tensors.len() > checkpoint.tensors.len());
    assert!(paired.tensors.keys().zip(checkpoint.tensors.keys()).all(|(a, b)| a == b));
    assert_eq!(common::write(&paired, &Patch::new()), common::write(&checkpoint, &Patch::new()));
    let folder = tempfile::tempdir().unwrap();
    let (out, options) = (folder.path().join("out.safetensors"), io::WriteOptions::default());
    io::convert(&paired, &Patch::new(), &[], &io::SAFETENSORS, &out, options).unwrap();
    assert_eq!(io::read(&out).unwrap().tensors.len(), checkpoint.tensors.len());
}

#[test]
fn half_precision_prefixes_and_masks() {
    let onnx = golden("script-folded.onnx");
    let plain = told(&pair(&golden("net.safetensors"), &onnx, &|_| false).unwrap().model);
    let half = changed(&golden("net.safetensors"), |path, storage, dtype| {
        if let (DType::F32, Storage::Bytes(bytes)) = (*dtype, &*storage) {
            let (floats, _) = bytes.as_chunks();
            let halves = floats.iter().map(|&b| f16::from_f32(f32::from_le_bytes(b))).collect();
            *storage = Storage::Data(Arc::new(Data::F16(halves)));
            *dtype = DType::F16;
        }
        format!("module.{path}")
    });
    let paired = pair(&half, &onnx, &|_| false).unwrap();
    assert_eq!((told(&paired.model), paired.unfolded), (plain, 2));
    let masked = changed(&golden("net.safetensors"), |path, _, _| match path.as_str() {
        "conv1.weight" => "conv1.weight_orig".to_string(),
        "fc1.weight" => "fc1.weight_orig".to_string(),
        _ => path,
    });
    let mut mask = masked.tensors["conv1.weight_orig"].clone();
    mask.path = "conv1.weight_mask".to_string();
    let mut masked = masked;
    masked.tensors.insert(mask.path.clone(), mask);
    let model = pair(&masked, &onnx, &|_| false).unwrap().model;
    let entries = view(&model).unwrap();
    let of = |path: &str| &entries.iter().find(|e| model.tensor(e.tensor).path == path).unwrap().status;
    let Status::Prunable(conv) = of("conv1.weight_orig") else { panic!("{:?}", of("conv1.weight_orig")) };
    assert_eq!(conv.mask, model.tensor_id("conv1.weight_mask"));
    assert!(matches!(of("conv1.weight_mask"), Status::Fixed(r) if r.kind == ReasonKind::Mask));
    assert!(matches!(of("fc1.weight_orig"), Status::Prunable(view) if view.mask.is_none()));
}

#[test]
fn mismatches_are_all_named() {
    let checkpoint = golden("net.safetensors");
    let mut other = golden("trained.safetensors");
    for path in ["up.weight", "fc2.weight", "bn1.running_mean"] {
        other.tensors.shift_remove(path).unwrap();
    }
    let error = pair(&other, &golden("script-folded.onnx"), &|_| false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    let text = error.to_string();
    for part in [
        "weight `up.weight` (f32 [4, 3, 2, 2]) of node `/up/ConvTranspose` (ConvTranspose) has no partner",
        "bias `onnx::Conv_",
        "of node `/conv1/Conv` (Conv) has no partner",
        "export the graph from the network",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let mut wide = checkpoint.clone();
    let head = wide.tensors.get_mut("head.weight").unwrap();
    head.shape = vec![7, 4];
    head.storage = Storage::Data(Arc::new(Data::F32(vec![0.0; 28])));
    let text = pair(&wide, &golden("script.onnx"), &|_| false).unwrap_err().to_string();
    assert!(text.contains("(Gemm): f32 [5, 4] in the graph, but is f32 [7, 4] in the checkpoint"), "{text}");
    let onnx = golden("script.onnx");
    assert_eq!(pair(&onnx, &onnx, &|_| false).unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!(pair(&checkpoint, &checkpoint, &|_| false).unwrap_err().kind(), ErrorKind::Usage);
}

/// A checkpoint with f32 tensors of the given shapes, each filled with numbers of its own.
fn made(tensors: &[(&str, &[usize])]) -> Model {
    let build = tensors.iter().enumerate().fold(Build::default(), |build, (seed, (path, shape))| {
        let len = shape.iter().product::<usize>();
        let values = (0..len).map(|i| ((seed * 31 + i * 7) % 13) as f32 - 5.5).collect();
        build.stored(path, Tensor::new(*shape, values).unwrap())
    });
    Model { graph: None, ..build.model() }
}

#[test]
fn without_names_the_order_is_taken_and_said() {
    let graph = || {
        let build =
            Build::default().weight("v1", &[4, 4, 1, 1]).weight("v0", &[4, 4, 1, 1]).weight("v2", &[4, 3]);
        build.node("Conv x v0 -> a").node("Conv a v1 -> b").node("MatMul b v2 -> y").output("y").model()
    };
    let checkpoint =
        made(&[("z.weight", &[4, 4, 1, 1]), ("a.weight", &[4, 4, 1, 1]), ("out.weight", &[3, 4])]);
    let Paired { model, notes, .. } = pair(&checkpoint, &graph(), &|_| false).unwrap();
    let entries = view(&model).unwrap();
    let nodes: Vec<&str> = entries.iter().filter_map(|e| Some(e.prunable()?.node.as_str())).collect();
    assert_eq!(nodes, ["n0", "n1", "n2"]);
    assert_eq!(notes.len(), 3);
    // A file sorted by name does not tell which of two comes first.
    let sorted = made(&[("a.weight", &[4, 4, 1, 1]), ("b.weight", &[4, 4, 1, 1]), ("c.weight", &[3, 4])]);
    let error = pair(&sorted, &graph(), &|_| false).unwrap_err().to_string();
    assert!(error.contains("`v0`") && error.contains("`v1`") && !error.contains("`v2`"), "{error}");
}

#[test]
fn nested_graphs_and_recurrent_layers() {
    let mut body = Build::default().weight("fc.weight", &[4, 3]).node("MatMul x fc.weight -> t").output("t");
    let x = body.graph.values.iter().position(|v| v.name == "x").unwrap();
    body.graph.captures.push(secateur_model::ValueId(x as u32));
    let outer = Build { tensors: std::mem::take(&mut body.tensors), ..Build::default() };
    let outer =
        outer.node_with("If c -> y", [("then_branch", Attr::Graph(Box::new(body.graph)))]).output("y");
    let checkpoint = made(&[("fc.weight", &[3, 4])]);
    let model = pair(&checkpoint, &outer.model(), &|_| false).unwrap().model;
    let entries = view(&model).unwrap();
    let nested = entries[0].prunable().unwrap();
    assert_eq!((nested.roles.as_slice(), nested.via.len()), ([AxisRole::Out, AxisRole::In].as_slice(), 1));

    let lstm = Build::default()
        .weight("onnx::LSTM_1", &[1, 12, 5])
        .weight("onnx::LSTM_2", &[1, 12, 3])
        .node_with("LSTM x onnx::LSTM_1 onnx::LSTM_2 -> y", [("hidden_size", Attr::Int(3))])
        .output("y");
    let checkpoint = made(&[("rnn.weight_ih_l0", &[12, 5]), ("rnn.weight_hh_l0", &[12, 3])]);
    let error = pair(&checkpoint, &lstm.model(), &|_| false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("node `n0` (LSTM)"), "{error}");
}

#[test]
fn a_tied_output_layer_is_the_embedding() {
    let onnx = Build::default()
        .weight("embed.weight", &[7, 4])
        .weight("onnx::MatMul_9", &[4, 7])
        .node("Gather embed.weight ids -> e")
        .node("MatMul e onnx::MatMul_9 -> y")
        .output("y");
    let mut onnx = onnx.model();
    onnx.graph.as_mut().unwrap().nodes[1].module = "head".to_string();
    let mut checkpoint = made(&[("embed.weight", &[7, 4]), ("head.weight", &[7, 4])]);
    checkpoint.tensors["head.weight"].storage = checkpoint.tensors["embed.weight"].storage.clone();
    let Paired { model, matched, notes, .. } = pair(&checkpoint, &onnx, &|_| false).unwrap();
    assert_eq!((matched, notes), (2, Vec::new()));
    let entries = view(&model).unwrap();
    let Status::Fixed(reason) = &entries[0].status else { panic!("{:?}", entries[0]) };
    assert_eq!(reason.kind, ReasonKind::Embedding);
    assert!(reason.text.contains("tied to the weights of MatMul `n1`"), "{}", reason.text);
}

/// A file of `goldens/parametrised`, all written by `make.py` there.
fn parametrised(name: &str) -> Model {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/parametrised");
    io::read(folder.join(name)).unwrap()
}

/// The tensors of a checkpoint that hold the network's parameters, by their paths without prefix.
const PARAMETERS: [&str; 8] =
    ["0.weight", "0.bias", "2.weight", "2.bias", "5.weight", "5.bias", "7.weight", "7.bias"];

#[test]
fn parametrised_weights_are_pruned_in_their_parts_place() {
    for (name, parts, by) in [
        ("weight_norm_old.pth", ["0.weight_g", "0.weight_v"], "weight_norm"),
        (
            "weight_norm_new.pth",
            ["2.parametrizations.weight.original0", "2.parametrizations.weight.original1"],
            "weight_norm",
        ),
        ("spectral_norm_old.pth", ["0.weight_orig", "0.weight_u"], "spectral_norm"),
        (
            "spectral_norm_new.pth",
            ["2.parametrizations.weight.original", "2.parametrizations.weight.0._u"],
            "spectral_norm",
        ),
        (
            "lora.safetensors",
            ["base_model.model.0.base_layer.weight", "base_model.model.0.lora_A.default.weight"],
            "LoRA",
        ),
    ] {
        let checkpoint = parametrised(name);
        // Without a graph a part is no weight.
        for part in parts {
            let id = checkpoint.tensor_id(part).unwrap();
            let entries = view(&checkpoint).unwrap();
            let Status::Fixed(reason) = &entries.iter().find(|e| e.tensor == id).unwrap().status else {
                panic!("{name}: `{part}` is taken for a weight");
            };
            assert!(reason.text.contains(by), "{}", reason.text);
        }
        let Paired { model, notes, .. } = pair(&checkpoint, &parametrised("first.onnx"), &|_| false).unwrap();
        assert!(notes.iter().any(|n| n.starts_with(by)), "{notes:?}");
        assert!(!notes.iter().any(|n| n.contains("does not use")), "{notes:?}");
        // Nothing changed: the same bytes.
        assert_eq!(common::write(&model, &Patch::new()), common::write(&checkpoint, &Patch::new()));
        // The first layer is parametrised in all of them.
        let first = |e: &Entry| model.tensor(e.tensor).path.ends_with("0.weight");
        let weight = view(&model).unwrap().iter().find(|e| first(e)).unwrap().tensor;
        let mut patch = Patch::new();
        patch.set(
            weight,
            Tensor::new(model.tensor(weight).shape.clone(), vec![0f32; model.tensor(weight).len()]).unwrap(),
        );
        let folder = tempfile::tempdir().unwrap();
        let written = folder.path().join(name);
        io::write(&model, &patch, &[], &written, io::WriteOptions::default()).unwrap();
        let again = io::read(&written).unwrap();
        let plain = |path: &str| path.strip_prefix("base_model.model.").unwrap_or(path).to_string();
        let mut paths: Vec<String> = again.tensors.keys().map(|path| plain(path)).collect();
        paths.sort();
        let mut expected = PARAMETERS.map(String::from);
        expected.sort();
        assert_eq!(paths, expected, "{name}");
        for stored in again.tensors.values() {
            let own = model.tensors[&stored.path].load().unwrap();
            let zeroed = model.tensor(weight).path == stored.path;
            let found = stored.load().unwrap();
            assert!(if zeroed { found.to_f32s().unwrap().iter().all(|&v| v == 0.0) } else { found == own });
        }
        // What was written stands for the same network.
        let weights = |model: &Model| pair(model, &parametrised("first.onnx"), &|_| false).unwrap().matched;
        assert_eq!(weights(&again), weights(&checkpoint), "{name}");
    }
}

#[test]
fn a_graph_with_the_parts_keeps_them() {
    let checkpoint = parametrised("weight_norm_old.pth");
    let Paired { model, .. } = pair(&checkpoint, &parametrised("weight_norm_own.onnx"), &|_| false).unwrap();
    assert!(model.tensor_id("0.weight").is_none());
}

#[test]
fn what_cannot_be_computed_is_refused_by_name() {
    let graph = parametrised("first.onnx");
    let error = pair(&parametrised("orthogonal.pth"), &graph, &|_| false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let text = error.to_string();
    for part in ["`7.weight` under orthogonal", "remove_parametrizations"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    // The same file away from its configuration.
    let lone = Model { path: None, ..parametrised("lora.safetensors") };
    let text = pair(&lone, &graph, &|_| false).unwrap_err().to_string();
    assert!(text.contains("put the adapter's `adapter_config.json` beside it"), "{text}");
    for (gone, part) in [
        ("2.parametrizations.weight.0._v", "`2.weight` under an unknown parametrisation"),
        ("0.parametrizations.weight.original", "`0.weight` under an unknown parametrisation"),
    ] {
        let mut checkpoint = changed(&parametrised("spectral_norm_new.pth"), |path, _, _| path);
        checkpoint.tensors.shift_remove(gone).unwrap();
        let text = pair(&checkpoint, &graph, &|_| false).unwrap_err().to_string();
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn what_stands_beside_a_used_weight_is_not_ignored() {
    for graph in ["first.onnx", "names.onnx"] {
        let error = pair(&parametrised("sibling.pth"), &parametrised(graph), &|_| false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Input);
        let text = error.to_string();
        assert!(
            text.contains("`0.offset` (f32 [4, 3, 3, 3]) of the checkpoint is not used by the graph"),
            "{text}"
        );
        assert!(!text.contains("`2."), "{text}");
    }
    // Counters and what does nothing are no part of a weight.
    let mut counted = changed(&parametrised("sibling.pth"), |path, _, _| path);
    let mut offset = counted.tensors.shift_remove("0.offset").unwrap();
    offset.path = "0.total_ops".to_string();
    counted.tensors.insert(offset.path.clone(), offset);
    pair(&counted, &parametrised("names.onnx"), &|_| false).unwrap();
}

/// What the graph does not use may be what the network computes with: only what is left out by name is ignored.
#[test]
fn tensors_without_a_place_are_refused() {
    let onnx = Build::default().weight("fc.weight", &[4, 6]).node("MatMul x fc.weight -> y").model();
    let checkpoint = made(&[("fc.weight", &[6, 4]), ("aux.weight", &[3, 5]), ("norm.bias", &[4])]);
    let error = pair(&checkpoint, &onnx, &|path| path == "norm.bias").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    let text = error.to_string();
    assert!(
        text.contains("`aux.weight`") && text.contains("`unused`") && !text.contains("`norm.bias`"),
        "{text}"
    );
    let paired = pair(&checkpoint, &onnx, &|path| path != "fc.weight").unwrap();
    assert!(paired.notes.iter().any(|n| n.contains("does not use 2 tensors")), "{:?}", paired.notes);
}
