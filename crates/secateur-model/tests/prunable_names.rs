//! What can be pruned in checkpoints, by names and shapes as PyTorch and Hugging Face give them.

mod common;

use std::fmt::Write;
use std::sync::Arc;

use bytes::Bytes;
use secateur_model::io::Source;
use secateur_model::model::Storage;
use secateur_model::ops::AxisRole::{self, Batch, GateOut, In, Out, Spatial};
use secateur_model::prunable::{PrunableView, ReasonKind, Status, parameters, view};
use secateur_model::{DType, Data, Model, StoredTensor, TensorId};

/// A checkpoint of f32 tensors.
fn checkpoint(tensors: &[(&str, &[usize])]) -> Model {
    let stored = |&(path, shape): &(&str, &[usize])| {
        let storage = Storage::Data(Arc::new(Data::F32(vec![0.5; shape.iter().product()])));
        (
            path.to_string(),
            StoredTensor { path: path.into(), dtype: DType::F32, shape: shape.to_vec(), storage },
        )
    };
    Model { tensors: tensors.iter().map(stored).collect(), graph: None, path: None, source: Source::memory() }
}

fn status(model: &Model, path: &str) -> Status {
    let id = model.tensor_id(path).unwrap();
    view(model).unwrap().into_iter().find(|e| e.tensor == id).unwrap().status
}

fn prunable(model: &Model, path: &str) -> PrunableView {
    match status(model, path) {
        Status::Prunable(view) => *view,
        Status::LeftDense(_, reason) | Status::Fixed(reason) => panic!("{path}: {reason:?}"),
    }
}

/// A line a tensor: `path: Op [roles]` with its bias, or `path: Kind`.
fn table(model: &Model) -> String {
    let mut lines = String::new();
    for entry in view(model).unwrap() {
        let path = &model.tensor(entry.tensor).path;
        match entry.status {
            Status::Prunable(view) => {
                let roles: Vec<&str> = view.roles.iter().map(|&r| short(r)).collect();
                write!(lines, "{path}: {} {}", view.op_type, roles.concat()).unwrap();
                if let Some(bias) = view.bias {
                    write!(lines, " + {}", model.tensor(bias.tensor).path).unwrap();
                }
                lines.push('\n');
            }
            Status::LeftDense(_, reason) | Status::Fixed(reason) => {
                writeln!(lines, "{path}: {:?}", reason.kind).unwrap();
            }
        }
    }
    lines
}

fn short(role: AxisRole) -> &'static str {
    match role {
        Out => "O",
        In => "I",
        Spatial => "s",
        GateOut => "G",
        Batch => "B",
        AxisRole::Direction => "D",
    }
}

fn check(tensors: &[(&str, &[usize])], expected: &str) {
    let lines: Vec<&str> = expected.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    assert_eq!(table(&checkpoint(tensors)).trim().lines().collect::<Vec<_>>(), lines);
}

#[test]
fn convolutional_networks() {
    check(
        &[
            ("module.conv1.weight", &[16, 3, 3, 3]),
            ("module.bn1.weight", &[16]),
            ("module.bn1.bias", &[16]),
            ("module.bn1.running_mean", &[16]),
            ("module.bn1.running_var", &[16]),
            ("module.downsample.0.weight", &[32, 16, 1, 1]),
            ("module.downsample.0.bias", &[32]),
            ("module.downsample.1.weight", &[32]),
            ("module.downsample.1.bias", &[32]),
            ("module.act.weight", &[32]),
            ("module.wave.weight", &[8, 4, 9]),
            ("module.up.weight", &[8, 4, 2, 2]),
            ("module.up.bias", &[4]),
            ("module.up2.weight", &[8, 4, 2, 2, 2]),
            ("module.up2.bias", &[16]),
            ("module.fc.weight", &[10, 64]),
            ("module.fc.bias", &[10]),
        ],
        "module.conv1.weight: Conv OIss
         module.bn1.weight: Normalisation
         module.bn1.bias: Normalisation
         module.bn1.running_mean: Normalisation
         module.bn1.running_var: Normalisation
         module.downsample.0.weight: Conv OIss + module.downsample.0.bias
         module.downsample.0.bias: Bias
         module.downsample.1.weight: Normalisation
         module.downsample.1.bias: Normalisation
         module.act.weight: Normalisation
         module.wave.weight: Conv OIs
         module.up.weight: ConvTranspose IOss + module.up.bias
         module.up.bias: Bias
         module.up2.weight: ConvTranspose IOsss + module.up2.bias
         module.up2.bias: Bias
         module.fc.weight: Linear OI + module.fc.bias
         module.fc.bias: Bias",
    );
    let model = checkpoint(&[("up.weight", &[8, 4, 2, 2]), ("up.bias", &[16])]);
    let view = prunable(&model, "up.weight");
    assert_eq!((view.groups, view.group_axis, view.module.as_str()), (4, Some(0), "up"));
}

#[test]
fn gpt2_stores_inputs_first_and_others_with_the_same_names_do_not() {
    check(
        &[
            ("transformer.wte.weight", &[50, 8]),
            ("transformer.wpe.weight", &[16, 8]),
            ("transformer.h.0.ln_1.weight", &[8]),
            ("transformer.h.0.ln_1.bias", &[8]),
            ("transformer.h.0.attn.bias", &[1, 1, 16, 16]),
            ("transformer.h.0.attn.c_attn.weight", &[8, 24]),
            ("transformer.h.0.attn.c_attn.bias", &[24]),
            ("transformer.h.0.attn.c_proj.weight", &[8, 8]),
            ("transformer.h.0.attn.c_proj.bias", &[8]),
            ("transformer.h.0.mlp.c_fc.weight", &[8, 32]),
            ("transformer.h.0.mlp.c_fc.bias", &[32]),
            ("transformer.h.0.mlp.c_proj.weight", &[32, 8]),
            ("transformer.h.0.mlp.c_proj.bias", &[8]),
            ("transformer.ln_f.weight", &[8]),
            ("lm_head.weight", &[50, 8]),
        ],
        "transformer.wte.weight: Embedding
         transformer.wpe.weight: Embedding
         transformer.h.0.ln_1.weight: Normalisation
         transformer.h.0.ln_1.bias: Normalisation
         transformer.h.0.attn.bias: Operand
         transformer.h.0.attn.c_attn.weight: Linear IO + transformer.h.0.attn.c_attn.bias
         transformer.h.0.attn.c_attn.bias: Bias
         transformer.h.0.attn.c_proj.weight: Linear IO + transformer.h.0.attn.c_proj.bias
         transformer.h.0.attn.c_proj.bias: Bias
         transformer.h.0.mlp.c_fc.weight: Linear IO + transformer.h.0.mlp.c_fc.bias
         transformer.h.0.mlp.c_fc.bias: Bias
         transformer.h.0.mlp.c_proj.weight: Linear IO + transformer.h.0.mlp.c_proj.bias
         transformer.h.0.mlp.c_proj.bias: Bias
         transformer.ln_f.weight: Normalisation
         lm_head.weight: OutputProjection",
    );
    // CLIP's perceptron is of linear layers; the square projection beside them follows.
    check(
        &[
            ("resblocks.0.attn.c_proj.weight", &[8, 8]),
            ("resblocks.0.attn.c_proj.bias", &[8]),
            ("resblocks.0.mlp.c_fc.weight", &[32, 8]),
            ("resblocks.0.mlp.c_fc.bias", &[32]),
        ],
        "resblocks.0.attn.c_proj.weight: Linear OI + resblocks.0.attn.c_proj.bias
         resblocks.0.attn.c_proj.bias: Bias
         resblocks.0.mlp.c_fc.weight: Linear OI + resblocks.0.mlp.c_fc.bias
         resblocks.0.mlp.c_fc.bias: Bias",
    );
}

#[test]
fn transformers() {
    check(
        &[
            ("model.embed_tokens.weight", &[50, 8]),
            ("model.layers.0.input_layernorm.weight", &[8]),
            ("model.layers.0.self_attn.q_proj.weight", &[8, 8]),
            ("model.layers.0.mlp.experts.gate_up_proj", &[4, 8, 12]),
            ("model.layers.0.mlp.experts.down_proj", &[4, 6, 8]),
            ("model.layers.1.mlp.experts.gate_up_proj", &[4, 12, 8]),
            ("model.layers.1.mlp.experts.down_proj", &[4, 8, 6]),
            ("model.layers.1.mlp.experts.3.w1.weight", &[6, 8]),
            ("model.norm.weight", &[8]),
            ("bert.embeddings.word_embeddings.weight", &[50, 8]),
            ("bert.embeddings.LayerNorm.weight", &[8]),
            ("bert.embeddings.LayerNorm.bias", &[8]),
            ("bert.encoder.layer.0.attention.self.query.weight", &[8, 8]),
            ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", &[32, 8]),
            ("shared.weight", &[50, 8]),
            ("class_embed.weight", &[5, 8]),
            ("class_embed.bias", &[5]),
            ("patch_embed.proj.weight", &[8, 3, 4, 4]),
            ("cls_token", &[1, 1, 8]),
            ("pos_embed", &[1, 65, 8]),
            ("attn.in_proj_weight", &[24, 8]),
            ("attn.in_proj_bias", &[24]),
            ("attn.out_proj.weight", &[8, 8]),
            ("plane.weight", &[8, 4, 4]),
            ("plane.bias", &[8, 4, 4]),
            ("fast.weight_g", &[8, 1]),
            ("fast.weight_v", &[8, 4]),
            ("new.parametrizations.weight.original0", &[8, 1]),
        ],
        "model.embed_tokens.weight: Embedding
         model.layers.0.input_layernorm.weight: Normalisation
         model.layers.0.self_attn.q_proj.weight: Linear OI
         model.layers.0.mlp.experts.gate_up_proj: Linear BIO
         model.layers.0.mlp.experts.down_proj: Linear BIO
         model.layers.1.mlp.experts.gate_up_proj: Linear BOI
         model.layers.1.mlp.experts.down_proj: Linear BOI
         model.layers.1.mlp.experts.3.w1.weight: Linear OI
         model.norm.weight: Normalisation
         bert.embeddings.word_embeddings.weight: Embedding
         bert.embeddings.LayerNorm.weight: Normalisation
         bert.embeddings.LayerNorm.bias: Normalisation
         bert.encoder.layer.0.attention.self.query.weight: Linear OI
         encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight: Embedding
         shared.weight: Embedding
         class_embed.weight: Linear OI + class_embed.bias
         class_embed.bias: Bias
         patch_embed.proj.weight: Conv OIss
         cls_token: Operand
         pos_embed: Operand
         attn.in_proj_weight: Linear OI + attn.in_proj_bias
         attn.in_proj_bias: Bias
         attn.out_proj.weight: Linear OI
         plane.weight: Normalisation
         plane.bias: Normalisation
         fast.weight_g: Unfollowed
         fast.weight_v: Unfollowed
         new.parametrizations.weight.original0: Unfollowed",
    );
}

#[test]
fn recurrent_layers_are_told_by_their_gates() {
    check(
        &[
            ("lstm.weight_ih_l0", &[16, 3]),
            ("lstm.weight_hh_l0", &[16, 4]),
            ("lstm.bias_ih_l0", &[16]),
            ("lstm.weight_ih_l0_reverse", &[16, 3]),
            ("lstm.weight_hh_l0_reverse", &[16, 4]),
            ("small.weight_ih_l0", &[16, 3]),
            ("small.weight_hh_l0", &[16, 2]),
            ("small.weight_hr_l0", &[2, 4]),
            ("gru.weight_ih_l10", &[12, 3]),
            ("gru.weight_hh_l10", &[12, 4]),
            ("cell.weight_ih", &[4, 3]),
            ("cell.weight_hh", &[4, 4]),
            ("odd.weight_ih_l0", &[9, 3]),
        ],
        "lstm.weight_ih_l0: LSTM GI
         lstm.weight_hh_l0: LSTM GI
         lstm.bias_ih_l0: Bias
         lstm.weight_ih_l0_reverse: LSTM GI
         lstm.weight_hh_l0_reverse: LSTM GI
         small.weight_ih_l0: LSTM GI
         small.weight_hh_l0: LSTM GI
         small.weight_hr_l0: Linear OI
         gru.weight_ih_l10: GRU GI
         gru.weight_hh_l10: GRU GI
         cell.weight_ih: RNN GI
         cell.weight_hh: RNN GI
         odd.weight_ih_l0: Operand",
    );
    let model = checkpoint(&[("r.weight_ih_l0", &[12, 3]), ("r.weight_hh_l0", &[12, 4])]);
    let view = prunable(&model, "r.weight_hh_l0");
    assert_eq!((view.gates, view.input, view.node.as_str()), (3, 2, "r"));
}

#[test]
fn masks_stand_beside_their_originals() {
    let model = checkpoint(&[
        ("fc.bias", &[2]),
        ("fc.weight_orig", &[2, 3]),
        ("fc.weight_mask", &[2, 3]),
        ("norm.weight", &[3]),
        ("conv.bias_orig", &[4]),
        ("conv.weight", &[4, 3, 1, 1]),
        ("conv.bias_mask", &[4]),
        ("attention_mask", &[2, 2]),
    ]);
    let view = prunable(&model, "fc.weight_orig");
    assert_eq!(view.mask, model.tensor_id("fc.weight_mask"));
    assert_eq!((view.module.as_str(), view.bias.unwrap().tensor), ("fc", TensorId(0)));
    assert_eq!(
        prunable(&model, "conv.weight").bias.unwrap().tensor,
        model.tensor_id("conv.bias_orig").unwrap()
    );
    for (path, kind) in [
        ("fc.weight_mask", ReasonKind::Mask),
        ("conv.bias_mask", ReasonKind::Mask),
        ("conv.bias_orig", ReasonKind::Bias),
        ("attention_mask", ReasonKind::Operand),
    ] {
        assert!(matches!(status(&model, path), Status::Fixed(r) if r.kind == kind), "{path}");
    }
}

#[test]
fn tied_tensors_stand_once() {
    let mut model = checkpoint(&[
        ("lm_head.weight", &[5, 4]),
        ("embed.weight", &[5, 4]),
        ("a.weight", &[4, 4]),
        ("b.weight", &[4, 4]),
        ("c.weight", &[2, 4]),
        ("optimizer.state.0.c.weight", &[2, 4]),
    ]);
    for (first, second) in [(0, 1), (2, 3), (4, 5)] {
        model.tensors[second].storage = model.tensors[first].storage.clone();
    }
    assert_eq!(model.aliases(), [[0, 1], [2, 3], [4, 5]].map(|group| group.map(TensorId)));
    for (path, kind) in [
        ("lm_head.weight", ReasonKind::Embedding),
        ("embed.weight", ReasonKind::Embedding),
        ("b.weight", ReasonKind::Tied),
    ] {
        assert!(matches!(status(&model, path), Status::Fixed(r) if r.kind == kind), "{path}");
    }
    assert_eq!(prunable(&model, "a.weight").shared, [("b".to_string(), "Linear".to_string())]);
    // What stands beside the parameters takes nothing from them.
    assert!(prunable(&model, "c.weight").shared.is_empty());
    // Parts of one file's bytes: the same only where they begin together.
    let file = Bytes::from(vec![0; 160]);
    for (tensor, start) in [(0, 0), (1, 80), (2, 0), (3, 0)] {
        let bytes = file.slice(start..start + 4 * model.tensors[tensor].len());
        model.tensors[tensor].storage = Storage::Bytes(bytes);
    }
    assert_eq!(model.aliases(), [[2, 3], [4, 5]].map(|group| group.map(TensorId)));
}

#[test]
fn what_is_no_float_or_no_parameter_says_so() {
    let mut model = checkpoint(&[
        ("fc.weight", &[2, 2]),
        ("bn.num_batches_tracked", &[1]),
        ("position_ids", &[1, 4]),
        ("q.weight", &[2, 2]),
        ("optimizer.state.0.momentum_buffer", &[2, 2]),
        ("weight", &[3, 2]),
        ("empty.weight", &[0, 2]),
    ]);
    model.tensors["bn.num_batches_tracked"].dtype = DType::I64;
    model.tensors["position_ids"].dtype = DType::I64;
    model.tensors["q.weight"].dtype = DType::I8;
    for (path, kind, text) in [
        ("bn.num_batches_tracked", ReasonKind::Normalisation, "statistics of the normalisation `bn`"),
        ("position_ids", ReasonKind::Integer, "i64 elements: counts, indices or flags"),
        ("q.weight", ReasonKind::Quantised, "i8 elements: quantised weights cannot be pruned yet"),
        ("optimizer.state.0.momentum_buffer", ReasonKind::Unused, "not a parameter: `optimizer.state`"),
    ] {
        match status(&model, path) {
            Status::Fixed(reason) => assert_eq!((reason.kind, reason.text.as_str()), (kind, text)),
            Status::Prunable(view) | Status::LeftDense(view, _) => panic!("{view:?}"),
        }
    }
    assert_eq!(prunable(&model, "weight").node, "weight");
    assert_eq!(view(&model).unwrap().len(), 6);
}

#[test]
fn the_shared_llama() {
    let Some(folder) = common::shared() else { return };
    let model = secateur_model::io::read(folder.join("models/stories260k")).unwrap();
    let entries = view(&model).unwrap();
    assert_eq!(entries.len(), model.tensors.len());
    for entry in &entries {
        let stored = model.tensor(entry.tensor);
        let linear = stored.path.contains("_proj.");
        assert_eq!(entry.prunable().is_some(), linear, "{}", stored.path);
        if let Some(view) = entry.prunable() {
            assert_eq!((view.op_type.as_str(), view.roles.as_slice()), ("Linear", [Out, In].as_slice()));
        }
    }
    assert_eq!(entries.iter().filter(|e| e.prunable().is_some()).count(), 5 * 7);
}

#[test]
fn output_projections_and_routers_stay_dense_by_default() {
    check(
        &[
            ("model.embed_tokens.weight", &[50, 8]),
            ("model.layers.0.mlp.gate.weight", &[4, 8]),
            ("model.layers.0.mlp.shared_expert_gate.weight", &[1, 8]),
            ("model.layers.0.mlp.experts.0.gate_proj.weight", &[16, 8]),
            ("model.layers.0.mlp.experts.1.gate_proj.weight", &[16, 8]),
            ("model.layers.1.mlp.gate.weight", &[16, 8]),
            ("model.layers.1.mlp.router.weight", &[4, 8]),
            ("model.layers.2.moe.gate.wg.weight", &[4, 8]),
            ("model.layers.2.moe.experts.0.fc1.weight", &[16, 8]),
            ("lm_head.weight", &[50, 8]),
        ],
        "model.embed_tokens.weight: Embedding
         model.layers.0.mlp.gate.weight: Router
         model.layers.0.mlp.shared_expert_gate.weight: Router
         model.layers.0.mlp.experts.0.gate_proj.weight: Linear OI
         model.layers.0.mlp.experts.1.gate_proj.weight: Linear OI
         model.layers.1.mlp.gate.weight: Linear OI
         model.layers.1.mlp.router.weight: Router
         model.layers.2.moe.gate.wg.weight: Router
         model.layers.2.moe.experts.0.fc1.weight: Linear OI
         lm_head.weight: OutputProjection",
    );
    // Other names of the output projection count where it has the shape of the embedding.
    for (embedding, output) in [
        ("gpt_neox.embed_in", "embed_out"),
        ("tok_embeddings", "output"),
        ("emb", "head"),
        ("wte", "decoder"),
    ] {
        let model = checkpoint(&[
            (&format!("{embedding}.weight"), &[50, 8]),
            ("hidden.weight", &[50, 8]),
            (&format!("{output}.weight"), &[50, 8]),
        ]);
        let status = status(&model, &format!("{output}.weight"));
        assert!(
            matches!(status, Status::LeftDense(_, r) if r.kind == ReasonKind::OutputProjection),
            "{output}"
        );
        prunable(&model, "hidden.weight");
    }
    // A classifier's output is a layer like others.
    prunable(&checkpoint(&[("hidden.weight", &[16, 8]), ("output.weight", &[10, 16])]), "output.weight");
    prunable(&checkpoint(&[("emb.weight", &[50, 8]), ("head.weight", &[10, 8])]), "head.weight");
}

#[test]
fn a_table_in_a_checkpoint_stays_dense() {
    let mut model = checkpoint(&[("dfl.conv.weight", &[1, 16, 1, 1]), ("c.weight", &[4, 4, 1, 1])]);
    let ramp = (0..16).flat_map(|i| (i as f32).to_le_bytes()).collect::<Vec<_>>();
    model.tensors["dfl.conv.weight"].storage = Storage::Bytes(ramp.into());
    assert!(
        matches!(status(&model, "dfl.conv.weight"), Status::LeftDense(_, r) if r.kind == ReasonKind::Table)
    );
    prunable(&model, "c.weight");
}

#[test]
fn weights_that_cannot_be_pruned_are_named_and_counted() {
    let mut model = checkpoint(&[
        ("a.weight", &[4, 4]),
        ("a.bias", &[4]),
        ("b.weight", &[4, 8]),
        ("b.weight_scale", &[4, 1]),
        ("c.qweight", &[2, 6]),
        ("c.scales", &[1, 6]),
        ("c.qzeros", &[1, 1]),
        ("c.g_idx", &[16]),
        ("d.qweight", &[16, 2]),
        ("d.scales", &[1, 16]),
        ("e.weight_packed", &[4, 2]),
        ("e.weight_shape", &[2]),
        ("f.weight", &[32, 1]),
        ("f.weight.absmax", &[1]),
        ("f.weight.quant_map", &[16]),
        ("optim.exp_avg.weight", &[4, 4]),
        ("position_ids", &[1, 4]),
    ]);
    for (path, dtype) in [
        ("b.weight", DType::F8E4M3FN),
        ("c.qweight", DType::I32),
        ("c.qzeros", DType::I32),
        ("c.g_idx", DType::I32),
        ("d.qweight", DType::I32),
        ("e.weight_packed", DType::I32),
        ("f.weight", DType::U8),
        ("f.weight.absmax", DType::U8),
        ("position_ids", DType::I64),
    ] {
        model.tensors[path].dtype = dtype;
    }
    let shape = &mut model.tensors["e.weight_shape"];
    (shape.dtype, shape.storage) = (DType::I64, Storage::Data(Arc::new(Data::I64(vec![4, 13]))));
    let entries = view(&model).unwrap();
    let weights =
        entries.iter().filter(|e| e.is_weight(&model)).map(|e| model.tensor(e.tensor).path.as_str());
    assert_eq!(
        weights.collect::<Vec<_>>(),
        ["a.weight", "b.weight", "c.qweight", "d.qweight", "e.weight_packed", "f.weight"]
    );
    let counts = parameters(&model, &entries);
    let of = |path: &str| counts[entries.iter().position(|e| model.tensor(e.tensor).path == path).unwrap()];
    for (path, count) in [
        ("a.weight", 16),
        ("a.bias", 4),
        ("b.weight", 32),
        ("c.qweight", 16 * 6),
        ("c.g_idx", 0),
        ("d.qweight", 16 * 16),
        ("e.weight_packed", 4 * 13),
        ("f.weight", 64),
        ("optim.exp_avg.weight", 0),
        ("position_ids", 0),
    ] {
        assert_eq!(of(path), count, "{path}");
    }
}
