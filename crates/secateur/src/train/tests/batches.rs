//! What a step and an epoch see.

use super::*;

#[test]
fn smaller_runs_add_up_to_the_same_gradient() {
    let place = Place::new();
    let data = data(place.points("train.npz", 64, 1));
    let after = |fixed| values(&trained(&mlp(fixed, false), &data, &options(6)), "fc1.weight");
    let whole = after(None);
    for fixed in [1, 2, 4, 8] {
        for (one, other) in after(Some(fixed)).iter().zip(&whole) {
            assert!((one - other).abs() < 1e-5, "{fixed}: {one} {other}");
        }
    }
    let model = mlp(Some(3), false);
    let masters = Masters::of(&model, &Masks::new()).unwrap();
    let variables = Variables::of(&Subject::of(masters.in_f32()), &[], &[]).unwrap();
    let refused = Trainer::new(&masters, &Patch::new(), &variables, &Masks::new(), &data, None, &options(6));
    let message = refused.err().unwrap().to_string();
    assert!(message.contains("takes 3 at a time") && message.contains("multiple"), "{message}");
}

#[test]
fn parts_of_the_samples_are_disjoint_and_together_all() {
    let sampling = |samples, split| Sampling { samples, split, seed: 3, ..Sampling::default() };
    for samples in [None, Some(60)] {
        let all = sampling(samples, Split::All).indices(100).unwrap();
        let train = sampling(samples, Split::Train(13)).indices(100).unwrap();
        let out = sampling(samples, Split::HeldOut(13)).indices(100).unwrap();
        assert_eq!((train.len(), out.len()), (all.len() - 13, 13));
        let mut both = [train, out].concat();
        both.sort_unstable();
        assert_eq!(both, all);
    }
    for count in [0, 100] {
        assert!(sampling(None, Split::HeldOut(count)).indices(100).is_err());
    }
}

#[test]
fn an_epoch_has_each_sample_once_in_an_order_of_its_own() {
    let place = Place::new();
    let inputs = InputSpec::of(mlp(None, false).graph().unwrap()).unwrap();
    let points = place.points("train.npz", 30, 1).open().unwrap();
    let batches = Batches::new(points, Preprocess::default(), inputs, &Sampling::default()).unwrap();
    let epochs = |seed| Epochs::new(&batches, 5, Augment::default(), seed).unwrap();
    let of = |epochs: &Epochs, epoch: u64| -> Vec<usize> {
        (0..6).flat_map(|at| epochs.batch(epoch * 6 + at).unwrap().indices).collect()
    };
    let one = epochs(1);
    let orders: Vec<Vec<usize>> = (0..4).map(|epoch| of(&one, epoch)).collect();
    for order in &orders {
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..30).collect::<Vec<_>>());
    }
    assert!((0..4).all(|a| (0..a).all(|b| orders[a] != orders[b])));
    // From any step on, whatever was asked for before.
    assert_eq!(of(&epochs(1), 2), orders[2]);
    assert_eq!(of(&one, 0), orders[0]);
    assert_ne!(of(&epochs(2), 0), orders[0]);
    // What fills no batch is left out, other samples in each epoch.
    let odd = Epochs::new(&batches, 7, Augment::default(), 1).unwrap();
    assert_eq!(odd.len(), 4);
    assert!(Epochs::new(&batches, 31, Augment::default(), 1).is_err());
}

#[test]
fn a_model_has_nothing_to_learn_from_itself() {
    let place = Place::new();
    let (model, data) = (mlp(None, false), data(place.points("train.npz", 40, 1)));
    let loss = LossOptions { distill: 1.0, temperature: 4.0, ..LossOptions::default() };
    let options = TrainOptions { loss, ..options(10) };
    let masters = Masters::of(&model, &Masks::new()).unwrap();
    let variables = Variables::of(&Subject::of(masters.in_f32()), &[], &[]).unwrap();
    let new = |teacher, options: &TrainOptions| {
        Trainer::new(&masters, &Patch::new(), &variables, &Masks::new(), &data, teacher, options)
    };
    let mut trainer = new(Some(&model), &options).unwrap();
    for _ in 0..trainer.steps() {
        assert!(trainer.step().unwrap().loss.abs() < 1e-9);
    }
    for (after, before) in values(&trainer, "fc1.weight").iter().zip(random(96, 1)) {
        assert!((after - before).abs() < 1e-6, "{after} {before}");
    }
    // Another model does teach something.
    let mut other = Model::clone(&model);
    other.tensors.get_mut("fc2.bias").unwrap().storage =
        Storage::Data(Arc::new(Data::F32(vec![9.0, 0.0, 0.0])));
    let other = Arc::new(other);
    let mut trainer = new(Some(&other), &options).unwrap();
    assert!(trainer.step().unwrap().loss > 0.1);
    assert!(new(None, &options).err().unwrap().to_string().contains("takes a teacher"));
    let message = new(Some(&model), &TrainOptions { loss: LossOptions::default(), ..options }).err().unwrap();
    assert!(message.to_string().contains("no effect"), "{message}");
}
