//! Which weights train, and which stay.

use super::*;

#[test]
fn masks_hold_at_every_step_and_the_loss_falls() {
    let place = Place::new();
    let (model, data) = (mlp(None, false), data(place.points("train.npz", 200, 1)));
    let masks = two_thirds(&model);
    let of = |kind, momentum, nesterov, weight_decay| OptimOptions {
        kind,
        momentum,
        nesterov,
        weight_decay,
        ..OptimOptions::default()
    };
    let optimizers = [
        of(Optim::Sgd, 0.0, false, 0.0),
        of(Optim::Sgd, 0.9, false, 0.01),
        of(Optim::Sgd, 0.9, true, 0.01),
        of(Optim::Adam, 0.0, false, 0.01),
        of(Optim::AdamW, 0.0, false, 0.01),
    ];
    for optimizer in optimizers {
        let options = TrainOptions { optimizer, ..options(150) };
        let mut trainer = trainer(&model, &masks, &data, &options);
        let mut losses = Vec::new();
        for step in 0..trainer.steps() {
            let before = trainer.patch().unwrap();
            losses.push(trainer.step().unwrap().loss);
            assert!(trainer.holds_masks().unwrap(), "{:?} step {step}", options.optimizer);
            let after = trainer.patch().unwrap();
            let mut moved = 0;
            for (&id, mask) in &masks {
                let [before, after] =
                    [&before, &after].map(|patch| patch.load(&model, id).unwrap().to_f32s().unwrap());
                for (i, keep) in mask.iter().enumerate() {
                    assert!(keep || after[i].to_bits() == 0, "{:?} step {step}", options.optimizer);
                    moved += usize::from(before[i] != after[i]);
                }
            }
            assert!(moved > 20 || step > 140, "{moved} weights moved in step {step}");
        }
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
        let (first, last) = (mean(&losses[..20]), mean(&losses[130..]));
        assert!(last < 0.8 * first, "{:?}: {first} → {last}", options.optimizer);
    }
}

#[test]
fn pruned_channels_keep_their_bias_and_norm_at_zero() {
    let place = Place::new();
    let data = data(place.images(40));
    let mut model = Model::clone(&cnn());
    let mut set = |path: &str, change: &dyn Fn(&mut [f32])| {
        let stored = model.tensors.get_mut(path).unwrap();
        let mut values = stored.load().unwrap().to_f32s().unwrap();
        change(&mut values);
        stored.storage = Storage::Data(Arc::new(Data::F32(values)));
    };
    // Channel 1 is pruned with all that belongs to it; of channel 2 the norm stayed.
    set("conv.weight", &|values| values[27..81].fill(0.0));
    set("norm.weight", &|values| values[1] = 0.0);
    set("norm.bias", &|values| values[1] = 0.0);
    let model = Arc::new(model);
    let mut trainer = trainer(&model, &Masks::new(), &data, &options(6));
    for _ in 0..6 {
        trainer.step().unwrap();
        assert!(trainer.holds_masks().unwrap());
    }
    assert!(values(&trainer, "conv.weight")[27..81].iter().all(|v| *v == 0.0));
    let (weight, bias) = (values(&trainer, "norm.weight"), values(&trainer, "norm.bias"));
    assert_eq!((weight[1], bias[1]), (0.0, 0.0));
    assert_ne!(bias[2], 0.1);
    assert!((0..8).filter(|c| *c != 1).all(|c| bias[c] != 0.0));
}

#[test]
fn frozen_tensors_keep_their_bits() {
    let place = Place::new();
    let (model, data) = (mlp(None, false), data(place.points("train.npz", 40, 1)));
    let optimizer = OptimOptions { weight_decay: 0.1, ..OptimOptions::default() };
    let options = TrainOptions { freeze: vec!["fc1*".into()], optimizer, ..options(10) };
    let patch = trained(&model, &data, &options).patch().unwrap();
    let changed: Vec<&str> = patch.ids().map(|id| model.tensor(id).path.as_str()).collect();
    assert_eq!(changed, ["fc2.weight", "fc2.bias"]);
    assert_ne!(of_patch(&model, &patch, "fc2.weight"), random(48, 3));

    let all = TrainOptions { freeze: vec!["*".into()], ..options.clone() };
    let subject = Subject::of(&model);
    assert!(
        Variables::of(&subject, &all.train, &all.freeze).unwrap_err().to_string().contains("nothing trains")
    );
    let message = Variables::of(&subject, &[], &["fc9*".into()]).unwrap_err().to_string();
    assert!(message.contains("`fc9*`"), "{message}");
}

/// Two layers of one shape, whose weights have these paths.
fn twins(paths: [&str; 2], shared: bool) -> Arc<Model> {
    let mut net = Net::new(None, &[6]);
    for path in paths {
        net.tensor(path, &[6, 6], random(36, 1));
    }
    if shared {
        let storage = net.model.tensors[paths[0]].storage.clone();
        net.model.tensors.get_mut(paths[1]).unwrap().storage = storage;
    }
    net.node("Gemm", &["x", paths[0]], "h", TRANSPOSED);
    net.node("Tanh", &["h"], "t", &[]);
    net.node("Gemm", &["t", paths[1]], "z", TRANSPOSED);
    net.ends_with("z")
}

#[test]
fn tied_weights_are_one_variable() {
    let place = Place::new();
    let data = data(place.points("train.npz", 40, 1));
    let plain = OptimOptions { momentum: 0.0, ..OptimOptions::default() };
    let options = TrainOptions { optimizer: plain, ..options(1) };
    let before = random(36, 1);
    let apart = trained(&twins(["a", "b"], false), &data, &options);
    let (a, b) = (values(&apart, "a"), values(&apart, "b"));
    assert_ne!(a, b);
    // One tensor that two nodes use, and two names of the same elements.
    for tied in [
        trained(&twins(["a", "a"], false), &data, &options),
        trained(&twins(["a", "b"], true), &data, &options),
    ] {
        for (path, stored) in &tied.masters().model().tensors {
            assert_eq!(stored.len(), 36);
            for (i, value) in values(&tied, path).iter().enumerate() {
                let sum = before[i] + (a[i] - before[i]) + (b[i] - before[i]);
                assert!((value - sum).abs() < 1e-6, "{path} {i}: {value} {sum}");
            }
        }
    }
}

#[test]
fn running_statistics_follow_the_batches_or_stay() {
    let place = Place::new();
    let (model, data) = (cnn(), data(place.images(40)));
    let free = trained(&model, &data, &options(4));
    assert_ne!(values(&free, "norm.mean"), vec![0.0; 8]);
    assert_ne!(values(&free, "norm.var"), vec![1.0; 8]);
    let frozen = trained(&model, &data, &TrainOptions { freeze_norms: true, ..options(4) });
    assert_eq!(values(&frozen, "norm.mean"), vec![0.0; 8]);
    assert_eq!(values(&frozen, "norm.var"), vec![1.0; 8]);
    assert_ne!(values(&frozen, "norm.weight"), vec![1.0; 8]);
}
