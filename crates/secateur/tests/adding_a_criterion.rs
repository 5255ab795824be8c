//! The steps of docs/adding-a-criterion.md, taken from outside: a criterion, and a solver, each in one file and one
//! line, are named in methods, listed, and get the evidence they ask for.

#[allow(dead_code)]
mod common;

use std::collections::BTreeMap;

use common::{model, stored};
use secateur::prune::criteria::{Criterion, Scores};
use secateur::prune::evidence::{
    Evidence, EvidenceSet, GRADIENTS, INPUT_MOMENTS, INPUT_SQUARES, Need, OTHER_WEIGHTS,
};
use secateur::prune::masks::{Form, Masks, output};
use secateur::prune::method::methods_markdown;
use secateur::prune::registry::{About, Described, Parameter, Registry};
use secateur::prune::solvers::{Solution, Solver};
use secateur::prune::{Mask, PruneOptions, Pruning, Subject, plan_with};
use secateur::{Amount, Error, ErrorKind, Model, Result};
use secateur_model::{Data, StoredTensor};

/// Step 1 of a criterion, its file. Magnitudes weighted by the inputs' norms, raised to a power.
#[derive(Debug)]
struct InputAware;

static INPUT_AWARE: About = About {
    name: "input-aware",
    aliases: &["ia"],
    parameter: Some(Parameter {
        symbol: "A",
        example: 1.0,
        read: |text| text.parse().map_err(|_| Error::usage(format!("`{text}` is not a power"))),
        named: &[],
    }),
    summary: "magnitude of the weight by the norm of its input",
    formula: "|w_ij|·(√Σx_j²)^A",
    source: "a test",
    needs: &[&INPUT_SQUARES],
};

impl Described for InputAware {
    fn about(&self) -> &About {
        &INPUT_AWARE
    }
}

impl Criterion for InputAware {
    fn weights<'a>(&self, layer: &Evidence<'a>) -> Result<Scores<'a>> {
        let inputs = layer.inputs()?;
        let mut squares = vec![0.0; inputs.count()];
        layer.given(&INPUT_SQUARES)?.read(0, &mut squares);
        let power = layer.parameter.unwrap_or(1.0);
        let mut scores = vec![0.0; layer.weights.len()];
        layer.weights.read(0, &mut scores);
        inputs.for_each_run(|start, len, first, step| {
            for i in 0..len {
                let score = &mut scores[start + i];
                *score = score.abs() * squares[first + i * step].sqrt().powf(power);
            }
        });
        Ok(Scores::of(scores))
    }
}

/// A criterion of two tensors of the weight's shape: |g·(w − w₀)|.
#[derive(Debug)]
struct Moved;

static MOVED: About = About {
    name: "moved",
    aliases: &[],
    parameter: None,
    summary: "what moving from another version of the weights changes in the loss",
    formula: "|g_i·(w_i − w⁰_i)|",
    source: "a test",
    needs: &[&GRADIENTS, &OTHER_WEIGHTS],
};

impl Described for Moved {
    fn about(&self) -> &About {
        &MOVED
    }
}

impl Criterion for Moved {
    fn weights<'a>(&self, layer: &Evidence<'a>) -> Result<Scores<'a>> {
        let (gradients, before) = (layer.given(&GRADIENTS)?, layer.given(&OTHER_WEIGHTS)?);
        let weights = *layer.weights;
        Ok(Scores::Numbers(Box::new(move |start, out| {
            let (mut g, mut w0) = (vec![0.0; out.len()], vec![0.0; out.len()]);
            gradients.read(start, &mut g);
            before.read(start, &mut w0);
            weights.read(start, out);
            out.iter_mut().zip(g).zip(w0).for_each(|((w, g), w0)| *w = (g * (*w - w0)).abs());
        })))
    }
}

/// Step 1 of a solver: the least squares ‖(ŵ − w)X‖² over the kept weights of each row, by coordinate descent.
#[derive(Debug)]
struct LeastSquares;

static LEAST_SQUARES: About = About {
    name: "least-squares",
    aliases: &[],
    parameter: None,
    summary: "the kept weights that come closest to the layer's outputs",
    formula: "argmin ‖(w' − w)X‖²",
    source: "a test",
    needs: &[&INPUT_MOMENTS],
};

impl Described for LeastSquares {
    fn about(&self) -> &About {
        &LEAST_SQUARES
    }
}

impl Solver for LeastSquares {
    fn solve(&self, layer: &Evidence<'_>, so_far: Solution) -> Result<Solution> {
        let n = layer.inputs()?.count();
        let mut g = vec![0.0; n * n];
        layer.given(&INPUT_MOMENTS)?.read(0, &mut g);
        let Solution { mask, weights } = so_far;
        let mut solved: Vec<f64> =
            weights.iter().zip(mask.iter()).map(|(w, keep)| if keep { *w } else { 0.0 }).collect();
        for row in 0..weights.len() / n {
            for _ in 0..1000 {
                for j in (0..n).filter(|j| mask.keeps(row * n + j)) {
                    let error = |i: usize| solved[row * n + i] - weights[row * n + i];
                    let slope: f64 = (0..n).map(|i| g[j * n + i] * error(i)).sum();
                    solved[row * n + j] -= slope / g[j * n + j];
                }
            }
        }
        Ok(Solution { mask, weights: solved })
    }
}

/// A solver that does not keep to its mask.
#[derive(Debug)]
struct Greedy;

static GREEDY: About = About {
    name: "greedy",
    aliases: &[],
    parameter: None,
    summary: "prunes everything",
    formula: "0",
    source: "a test",
    needs: &[],
};

impl Described for Greedy {
    fn about(&self) -> &About {
        &GREEDY
    }
}

impl Solver for Greedy {
    fn solve(&self, _: &Evidence<'_>, so_far: Solution) -> Result<Solution> {
        Ok(Solution { mask: Mask::none(so_far.mask.len()), ..so_far })
    }
}

/// Step 2: the lines that register them.
/// A tensor of evidence: the layer, the shape, the elements.
type Given<'a> = (&'a str, &'a [usize], &'a [f64]);

fn registry() -> Registry {
    let mut registry = Registry::default();
    registry.add_criterion(&InputAware).unwrap();
    registry.add_criterion(&Moved).unwrap();
    registry.add_solver(&LeastSquares).unwrap();
    registry.add_solver(&Greedy).unwrap();
    registry
}

/// A layer of 2 outputs and 4 inputs, and a convolution of two groups, each of one output, two inputs, two positions.
fn example() -> Model {
    let linear = [1.0, -2.0, 3.0, -4.0, 4.0, 3.0, -2.0, 1.0];
    let conv = [1.0, 2.0, 3.0, 4.0, 4.0, 3.0, 2.0, 1.0];
    let tensors = vec![
        stored("linear", &[2, 4], Data::F32(linear.to_vec())),
        stored("conv", &[2, 2, 2], Data::F32(conv.to_vec())),
    ];
    model(tensors, &[1, 2])
}

fn tensors(of: &[(&str, &[usize], &[f64])]) -> Vec<(String, StoredTensor)> {
    of.iter().map(|(path, shape, v)| (path.to_string(), stored(path, shape, Data::F64(v.to_vec())))).collect()
}

fn prune(model: &Model, method: &str, evidence: &EvidenceSet) -> Result<Pruning> {
    let options = PruneOptions::new(registry().method(method)?, Amount::Sparsity(0.5));
    plan_with(&Subject::of(model), &options, &BTreeMap::new(), evidence)
}

fn given(need: &'static Need, of: &[(&str, &[usize], &[f64])]) -> EvidenceSet {
    let mut set = EvidenceSet::default();
    set.insert(need, tensors(of));
    set
}

fn kept(pruning: &Pruning, layer: usize) -> Vec<usize> {
    let mask = &pruning.masks[layer].1;
    (0..mask.len()).filter(|&i| mask.keeps(i)).collect()
}

/// Step 3 of a criterion: what holds of it.
#[test]
fn a_criterion_is_added_in_one_file_and_one_line() {
    let registry = registry();
    for (written, printed) in [
        ("input-aware:0.5@row", "input-aware:0.5@row"),
        ("ia:2/2:4", "input-aware:2/2:4"),
        ("moved", "moved"),
    ] {
        assert_eq!(registry.method(written).unwrap().to_string(), printed);
    }
    let error = registry.method("input-awaer:1").unwrap_err().to_string();
    assert!(error.contains("did you mean `input-aware:A`"), "{error}");
    assert!("moved".parse::<secateur::Method>().is_err(), "only programs that register it know it");
    let page = methods_markdown(&registry);
    assert!(page.contains("| `input-aware:A` | magnitude of the weight by the norm of its input |"));
    assert!(registry.matrix().iter().any(|cell| cell.method().to_string() == "moved/channel@global"));

    // The inputs are numbered as the weight stores them: of a grouped convolution group by group.
    let model = example();
    let squares: [Given<'_>; 2] = [
        ("linear", &[4], &[100.0, 1.0, 1.0, 0.01]),
        ("conv", &[8], &[1.0, 1.0, 0.01, 1.0, 0.01, 1.0, 1.0, 1.0]),
    ];
    let evidence = given(&INPUT_SQUARES, &squares);
    let pruning = prune(&model, "input-aware:1@row", &evidence).unwrap();
    assert_eq!(kept(&pruning, 0), [0, 2, 4, 5]);
    assert_eq!(kept(&pruning, 1), [1, 3, 5, 6]);
    let pruning = prune(&model, "input-aware:0@row", &evidence).unwrap();
    assert_eq!(kept(&pruning, 0), [2, 3, 4, 5]);
    // Units take the means of their weights' scores: 10 + 2 + 3 + 0.4 is below 40 + 3 + 2 + 0.1.
    let pruning = prune(&model, "input-aware:1/channel:0", &evidence).unwrap();
    assert_eq!(kept(&pruning, 0), [4, 5, 6, 7]);

    let both: [&[Given<'_>]; 2] = [
        &[("linear", &[2, 4], &[1.0; 8]), ("conv", &[2, 2, 2], &[1.0; 8])],
        &[("linear", &[2, 4], &[1.0, -2.0, 3.0, -4.0, 0.0, 0.0, 0.0, 0.0]), ("conv", &[2, 2, 2], &[0.0; 8])],
    ];
    let mut evidence = given(&GRADIENTS, both[0]);
    evidence.insert(&OTHER_WEIGHTS, tensors(both[1]));
    assert_eq!(kept(&prune(&model, "moved", &evidence).unwrap(), 0), [4, 5, 6, 7]);
}

#[test]
fn missing_evidence_is_named_with_how_to_give_it() {
    let model = example();
    let error = |method: &str, evidence: &EvidenceSet| prune(&model, method, evidence).unwrap_err();
    let missing = error("input-aware:1", &EvidenceSet::default());
    assert_eq!(missing.kind(), ErrorKind::Usage);
    assert_eq!(
        missing.to_string(),
        "method `input-aware:1`: criterion `input-aware` needs the sum of squares of each input of the layer over \
         the calibration data, and none is given: pass it to `prune::plan_with` in an `EvidenceSet`"
    );
    let missing = error("l1+least-squares", &EvidenceSet::default()).to_string();
    assert!(missing.contains("solver `least-squares` needs the second moments"), "{missing}");
    let missing = error("file", &EvidenceSet::default()).to_string();
    assert!(missing.contains("option `scores=scores.npz`"), "{missing}");

    let linear: (&str, &[usize], &[f64]) = ("linear", &[4], &[1.0; 4]);
    for (conv, expected) in [
        (("other", &[8][..], &[1.0; 8][..]), "tensor `conv`: criterion `input-aware:1`: the sum of squares"),
        (("conv", &[4], &[1.0; 4]), "the input squares have the shape [4]; expected [8]"),
        (("conv", &[8], &[f64::NAN; 8]), "the element at [0] of the input squares is NaN"),
    ] {
        let error = error("input-aware:1", &given(&INPUT_SQUARES, &[linear, conv]));
        assert_eq!(error.kind(), ErrorKind::Input);
        assert!(error.to_string().contains(expected), "{error}");
    }
}

/// Step 3 of a solver: what holds of it, and that its weights go where a pruning goes.
#[test]
fn a_solver_is_added_in_one_file_and_one_line() {
    // Two inputs are always equal, so that one can stand for both.
    let moments = [
        [2.0, 2.0, 0.0, 0.0], //
        [2.0, 2.0, 0.0, 0.0],
        [0.0, 0.0, 1.0, 0.0],
        [0.0, 0.0, 0.0, 1.0],
    ];
    let moments: (&str, &[usize], &[f64]) = ("linear", &[1, 4, 4], &moments.concat());
    let mut model = example();
    model.tensors.shift_remove("conv");
    let graph = model.graph.as_mut().unwrap();
    graph.nodes.truncate(1);
    graph.constants.retain(|_, tensor| tensor.0 == 0);

    let evidence = given(&INPUT_MOMENTS, &[moments]);
    let pruning = prune(&model, "l1@row+least-squares", &evidence).unwrap();
    assert_eq!(pruning.masks, prune(&model, "l1@row", &EvidenceSet::default()).unwrap().masks);
    let solved = |pruning: &Pruning| {
        let id = model.tensor_id("linear").unwrap();
        pruning.patch(&model).load(&model, id).unwrap().to_f32s().unwrap()
    };
    // The first row keeps inputs 2 and 3, the second 0 and 1: only there nothing was lost that can be made up.
    assert_eq!(solved(&pruning), [0.0, 0.0, 3.0, -4.0, 4.0, 3.0, 0.0, 0.0]);
    let scores = ("linear", &[2, 4][..], &[0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0][..]);
    let mut evidence = given(&INPUT_MOMENTS, &[moments]);
    evidence.insert(&secateur::prune::evidence::SCORES, tensors(&[scores]));
    let pruning = prune(&model, "file@row+least-squares", &evidence).unwrap();
    // −2 + 1 of the equal inputs, 4 + 3 of the second row.
    assert_eq!(solved(&pruning), [0.0, -1.0, 3.0, 0.0, 7.0, 0.0, -2.0, 0.0]);

    // A sidecar keeps the originals, so that it can be undone; pairs hold nothing but the originals.
    let written = output(&model, &pruning, &Masks::default(), Form::Sidecar, true).unwrap();
    assert!(written.has_sidecar());
    let mut checkpoint = model.clone();
    checkpoint.graph = None;
    let error = output(&checkpoint, &pruning, &Masks::default(), Form::Pairs, false).err().unwrap();
    assert!(error.to_string().contains("option `form=sidecar`"), "{error}");

    let error = prune(&model, "l1+greedy", &EvidenceSet::default()).unwrap_err().to_string();
    assert!(error.contains("tensor `linear`: solver `greedy`: prunes 8 weights instead of 4"), "{error}");
}
