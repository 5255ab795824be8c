//! The gradients of every operator that training goes through agree with central differences of its results.

#[path = "../common/build.rs"]
mod build;
#[path = "../axes/cases.rs"]
#[allow(dead_code)]
mod cases;

use std::collections::BTreeSet;
use std::sync::Arc;

use build::stored;
pub(crate) use build::{Build, Random};
use secateur_model::{Attr, DType, Model, Node, Patch, Tensor, TensorId, ValueId, ops};
use secateur_runtime::{Session, Tape, TapeOptions, differentiable};

/// The model with what is given to it as constants.
fn closed(mut model: Model, given: Vec<(ValueId, Tensor)>) -> Model {
    let graph = model.graph.as_mut().unwrap();
    graph.inputs.clear();
    for (value, tensor) in given {
        let path = graph.value_name(value).to_string();
        graph.constants.insert(value, TensorId(model.tensors.len() as u32));
        model.tensors.insert(path.clone(), stored(path, tensor));
    }
    model
}

/// Σ of the first output times some factors, each between −1 and 1.
fn loss(output: &Tensor) -> f64 {
    let values = output.values::<f32>().unwrap().iter().enumerate();
    values.map(|(i, &v)| f64::from(v) * f64::from(factor(i))).sum()
}

fn factor(i: usize) -> f32 {
    ((i * 37 + 11) % 19) as f32 / 9.0 - 1.0
}

/// The step of a central difference: results are f32, so that shorter ones would show their rounding.
const STEP: f32 = 4e-3;

/// Compares the gradients of all float operands; gives how many elements were compared, `None` where the operator has no
/// gradient for these operands.
///
/// A batch-norm in training mode has the statistics of the batch at inference too. What is dropped is a matter of training
/// alone: there the tape is compared with itself.
fn check(model: &Model, random: &mut Random) -> Result<Option<usize>, String> {
    let node = &model.graph().unwrap().nodes[0];
    let freeze_norms = node.int_or("training_mode", 0).unwrap() == 0;
    let drops = node.op_type == "Dropout";
    let model = Arc::new(model.clone());
    // Single numbers, such as the bounds of a clip, say how an operator works.
    // So do tables of angles and factors of extents.
    let tables = match node.op_type.as_str() {
        "RotaryEmbedding" | "Resize" | "Upsample" => &node.inputs[1..],
        _ => &[],
    };
    let constants = &model.graph().unwrap().constants;
    let is_table = |id: &TensorId| tables.iter().flatten().any(|value| constants.get(value) == Some(id));
    let is_variable = |id: &TensorId| {
        let tensor = model.tensor(*id);
        tensor.dtype == DType::F32 && tensor.len() > 1 && !is_table(id)
    };
    let variables: Vec<TensorId> =
        (0..model.tensors.len() as u32).map(TensorId).filter(is_variable).collect();
    let options = TapeOptions { variables: variables.clone(), freeze_norms, ..TapeOptions::default() };
    let mut tape = Tape::new(&model, &Patch::new(), &options).map_err(|e| e.to_string())?;
    let output = match tape.forward(Vec::new(), 0) {
        Ok(output) => output,
        Err(error) if error.to_string().contains("training does not go through") => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    if output.dtype() != DType::F32 {
        return Ok(None);
    }
    let plain = Session::new(model.clone(), Patch::new())
        .and_then(|s| s.run(Vec::new()))
        .map_err(|e| e.to_string())?;
    let (found, expected) = (loss(&output), loss(&plain[0]));
    if !drops && (found - expected).abs() > 1e-4 * (1.0 + expected.abs()) {
        return Err(format!("the forward pass gives {found}, inference {expected}"));
    }
    let gradient = Tensor::new(output.shape(), (0..output.len()).map(factor).collect()).unwrap();
    tape.backward(gradient).map_err(|e| e.to_string())?;
    let mut compared = 0;
    for (place, &id) in variables.iter().enumerate() {
        let values = model.tensor(id).load().unwrap();
        let Some(gradient) = tape.gradient(place).unwrap() else { continue };
        for _ in 0..values.len().min(12) {
            let i = random.below(values.len());
            let at = |by: f32| {
                let mut moved = values.clone();
                moved.values_mut::<f32>().unwrap()[i] += by;
                let mut patch = Patch::new();
                patch.set(id, moved);
                if drops {
                    return Ok(loss(&Tape::new(&model, &patch, &options)?.forward(Vec::new(), 0)?));
                }
                let outputs = Session::new(model.clone(), patch)?.run(Vec::new())?;
                Ok(loss(&outputs[0]))
            };
            let sample =
                |by: f32| -> Result<f64, String> { at(by).map_err(|e: secateur_model::Error| e.to_string()) };
            let (up, here, down) = (sample(STEP)?, sample(0.0)?, sample(-STEP)?);
            let (right, left) = (up - here, here - down);
            // Next to a corner, or where it bends strongly, there is no one slope.
            if (right - left).abs() > 0.02 * (right.abs() + left.abs()) + 1e-5 {
                continue;
            }
            let want = (up - down) / (2.0 * f64::from(STEP));
            let got = f64::from(gradient[i]);
            if (got - want).abs() > 4e-3 * (1.0 + want.abs()) {
                let shape = values.shape();
                return Err(format!(
                    "operand {} {shape:?}, element {i}: {got}, expected {want}",
                    model.tensor(id).path
                ));
            }
            compared += 1;
        }
    }
    Ok(Some(compared))
}

#[test]
fn gradients_agree_with_central_differences() {
    let mut random = Random::new(5);
    let (mut compared, mut wrong) = (BTreeSet::new(), Vec::new());
    for round in 0..3 {
        for case in cases::all(&mut random) {
            if !differentiable().contains(&case.op) {
                continue;
            }
            let (model, given) = case.model();
            match check(&closed(model, given), &mut random) {
                Ok(Some(0) | None) => {}
                Ok(Some(_)) => {
                    compared.insert(case.op);
                }
                Err(why) => {
                    wrong.push(format!("{} {:?} (round {round}): {why}", case.label(), case.shapes()))
                }
            }
        }
    }
    // The cases of Cast are from one type to another.
    let (mut build, cast) = (Build::new(), ops::all().find(|op| op.name == "Cast").unwrap());
    let x = build.input(Tensor::new([3, 5], (0..15).map(|_| random.number()).collect()).unwrap());
    let attrs = [("to".to_string(), Attr::Int(DType::F32.to_onnx().into()))].into_iter().collect();
    let y = build.node(cast, 24, Node { inputs: vec![Some(x)], attrs, ..Node::default() }, 1);
    build.output(y[0]);
    let (model, given) = build.finish();
    assert!(check(&closed(model, given), &mut random).unwrap().is_some_and(|count| count > 0));
    compared.insert("Cast");
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    let without: Vec<&str> = differentiable().into_iter().filter(|op| !compared.contains(op)).collect();
    assert!(without.is_empty(), "nothing was compared of {without:?}");
}

/// Indices that a graph is given say only when it runs where elements go; updates that are replaced get no gradient.
#[test]
fn elements_move_by_indices_that_are_computed() {
    let op = |name: &str| ops::all().find(|op| op.name == name).unwrap();
    let mut build = Build::new();
    let indices = build.input(Tensor::new([4, 1], vec![0i64; 4]).unwrap());
    let values = |count: usize| (0..count).map(|v| v as f32).collect::<Vec<f32>>();
    let data = build.constant(Tensor::new([5, 2], values(10)).unwrap());
    let updates = build.constant(Tensor::new([4, 2], values(8)).unwrap());
    let inputs = vec![Some(data), Some(indices), Some(updates)];
    let y = build.node(op("ScatterND"), 18, Node { inputs, ..Node::default() }, 1);
    build.output(y[0]);
    let (model, _) = build.finish();
    let variables = [data, updates].map(|value| model.graph().unwrap().constants[&value]).to_vec();
    let options = TapeOptions { variables, ..TapeOptions::default() };
    let mut tape = Tape::new(&Arc::new(model), &Patch::new(), &options).unwrap();
    for rows in [[1i64, 3, 1, 4], [0, 0, 0, 2]] {
        tape.clear();
        let output = tape.forward(vec![Tensor::new([4, 1], rows.to_vec()).unwrap()], 0).unwrap();
        let given: Vec<f32> = (1..=10u8).map(f32::from).collect();
        tape.backward(Tensor::new(output.shape(), given.clone()).unwrap()).unwrap();
        let (mut of_data, mut of_updates) = (given.clone(), [0.0; 8]);
        for (update, &row) in rows.iter().enumerate() {
            let row = row as usize;
            of_data[2 * row..][..2].fill(0.0);
            // The last one at a place stays.
            if rows[update + 1..].iter().all(|&later| later as usize != row) {
                of_updates[2 * update..][..2].copy_from_slice(&given[2 * row..][..2]);
            }
        }
        assert_eq!(tape.gradient(0).unwrap().unwrap(), of_data);
        assert_eq!(tape.gradient(1).unwrap().unwrap(), of_updates);
    }
}
