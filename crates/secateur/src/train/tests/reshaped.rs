//! Trainings that go on with other shapes.

use super::*;
use crate::shrink::{ShrinkOptions, shrink};

/// A change that keeps some indices along axes of tensors: each tensor with its axis.
fn without(model: &Model, along: &[(&str, usize)], kept: &[usize]) -> (Patch, KeptIndices) {
    let (mut patch, mut all) = (Patch::new(), KeptIndices::new());
    for &(path, axis) in along {
        let id = model.tensor_id(path).unwrap();
        let mut shape = model.tensor(id).shape.clone();
        shape[axis] = kept.len();
        // What the patch holds of variables is not looked at.
        let values = vec![9.0f32; shape.iter().product()];
        patch.replace(id, Tensor::new(shape, values).unwrap());
        all.insert(path.to_string(), [(axis, kept.to_vec())].into());
    }
    (patch, all)
}

/// Trains with channels pruned away, and from the middle on without them: the losses are the same, up to rounding.
fn goes_on_alike(
    model: &Arc<Model>,
    data: &TrainData,
    along: &[(&str, usize)],
    channels: usize,
    options: &TrainOptions,
) {
    let place = Place::new();
    let kept: Vec<usize> = (0..channels).filter(|c| c % 3 != 1).collect();
    // All weights from and to the other channels are pruned, with what belongs to them.
    let masks: Masks = along
        .iter()
        .map(|&(path, axis)| {
            let id = model.tensor_id(path).unwrap();
            let shape = &model.tensor(id).shape;
            let inner: usize = shape[axis + 1..].iter().product();
            let keeps = |i: usize| kept.contains(&(i / inner % shape[axis]));
            (id, Arc::new(Mask::from_fn(shape.iter().product(), keeps)))
        })
        .collect();
    let start = || {
        let masters = Masters::of(model, &masks).unwrap();
        let variables = Variables::of(&Subject::of(masters.in_f32()), &[], &[]).unwrap();
        Trainer::new(&masters, &Patch::new(), &variables, &masks, data, None, options).unwrap()
    };
    let [mut whole, mut small] = [start(), start()];
    let saved = place.path("training.safetensors");
    let (half, mut change) = (whole.steps() / 2, None);
    for step in 0..whole.steps() {
        if step == half {
            let trained = small.patch().unwrap().apply(model).unwrap();
            let shrunk = shrink(&trained, &ShrinkOptions::default()).unwrap();
            assert_eq!(shrunk.indices, without(model, along, &kept).1);
            small.reshape(&shrunk.patch, &shrunk.indices).unwrap();
            change = Some(shrunk);
            small.save(&saved, None, "").unwrap();
        }
        let [expected, found] = [&mut whole, &mut small].map(|trainer| trainer.step().unwrap());
        assert!((expected.loss - found.loss).abs() < 1e-5, "step {step}: {expected:?} {found:?}");
        assert!(small.holds_masks().unwrap());
    }
    assert_eq!((small.step_number(), small.rate()), (whole.step_number(), whole.rate()));
    // What is left of each tensor is what the other training has there.
    let smaller = small.masters().model().clone();
    let stored = small.patch().unwrap();
    let left = Masters::of(&smaller, &Masks::new()).unwrap();
    for &(path, axis) in along {
        let shape = &model.tensor(model.tensor_id(path).unwrap()).shape;
        let inner: usize = shape[axis + 1..].iter().product();
        let of_whole = of_patch(model, &whole.patch().unwrap(), path);
        let expected = of_whole.iter().enumerate().filter(|(i, _)| kept.contains(&(i / inner % shape[axis])));
        let found = of_patch(left.model(), &stored, path);
        assert_eq!(found.len(), of_whole.len() / channels * kept.len(), "{path}");
        for ((_, expected), found) in expected.zip(&found) {
            assert!((expected - found).abs() < 1e-4, "{path}: {expected} {found}");
        }
    }
    // Resumed by a trainer that was given the same change, it ends in the same bits.
    let mut again = start();
    assert!(again.resume(&saved).is_err());
    let change = change.unwrap();
    again.reshape(&change.patch, &change.indices).unwrap();
    again.resume(&saved).unwrap();
    while again.step_number() < again.steps() {
        again.step().unwrap();
    }
    assert_eq!(bits(&smaller, &again.patch().unwrap()), bits(&smaller, &stored));
}

#[test]
fn channels_that_are_zero_can_be_taken_out_while_the_model_trains() {
    let place = Place::new();
    let points = data(place.points("train.npz", 80, 1));
    let hidden = [("fc1.weight", 0), ("fc1.bias", 0), ("fc2.weight", 1)];
    let sgd = OptimOptions { nesterov: true, weight_decay: 0.01, ..OptimOptions::default() };
    let adam = OptimOptions { kind: Optim::AdamW, weight_decay: 0.01, ..OptimOptions::default() };
    for optimizer in [sgd, adam] {
        let options = TrainOptions { optimizer, ..options(40) };
        goes_on_alike(&mlp(None, false), &points, &hidden, 16, &options);
    }
    // A batch-norm whose running statistics follow, in several runs a step, on images that are augmented.
    let channels = [
        ("conv.weight", 0),
        ("norm.weight", 0),
        ("norm.bias", 0),
        ("norm.mean", 0),
        ("norm.var", 0),
        ("head.weight", 1),
    ];
    let augment = Augment { flip: true, pad: 4 };
    goes_on_alike(&cnn(), &data(place.images(40)), &channels, 8, &TrainOptions { augment, ..options(12) });
}

#[test]
fn changes_that_do_not_fit_leave_the_training_as_it_was() {
    let place = Place::new();
    let (model, points) = (mlp(None, false), data(place.points("train.npz", 40, 1)));
    let mut trainer = trainer(&model, &Masks::new(), &points, &options(4));
    let hidden = [("fc1.weight", 0), ("fc1.bias", 0), ("fc2.weight", 1)];
    let kept: Vec<usize> = (0..12).collect();
    let (patch, indices) = without(&model, &hidden, &kept);
    let mut refused =
        |patch: &Patch, kept: &KeptIndices| trainer.reshape(patch, kept).unwrap_err().to_string();
    let with = |axis: usize, along: Vec<usize>| {
        let mut indices = indices.clone();
        indices.insert("fc1.weight".into(), [(axis, along)].into());
        indices
    };
    let mut missing = indices.clone();
    missing.remove("fc1.weight");
    let message = refused(&patch, &missing);
    assert!(message.contains("fc1.weight") && message.contains("[12, 6]"), "{message}");
    assert!(refused(&patch, &with(2, kept.clone())).contains("axis 2"));
    assert!(refused(&patch, &with(0, (5..17).collect())).contains("below 16"));
    assert!(refused(&patch, &with(0, vec![3; 12])).contains("different"));
    assert!(refused(&patch, &with(0, vec![3])).contains("[1, 6]"));
    // A graph that does not fit together.
    let (lone, of_one) = without(&model, &hidden[..1], &kept);
    trainer.reshape(&lone, &of_one).unwrap_err();
    trainer.step().unwrap();
    assert_eq!(values(&trainer, "fc1.weight").len(), 96);
}
