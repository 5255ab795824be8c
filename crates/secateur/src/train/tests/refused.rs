//! What cannot be trained, and says so.

use super::*;

#[test]
fn what_has_no_gradient_is_named_at_once() {
    let place = Place::new();
    let data = data(place.points("train.npz", 40, 1));
    let mut net = Net::new(None, &[6]);
    net.tensor("fc1.weight", &[6, 6], random(36, 1));
    net.tensor("fc2.weight", &[3, 6], random(18, 2));
    net.node("Gemm", &["x", "fc1.weight"], "h", TRANSPOSED);
    net.node("Hardmax", &["h"], "first", &[]);
    net.node("Hardmax", &["h"], "unused", &[]);
    net.node("Gemm", &["first", "fc2.weight"], "z", TRANSPOSED);
    let model = net.ends_with("z");
    let mut blocked = trainer(&model, &Masks::new(), &data, &options(3));
    let message = blocked.step().unwrap_err().to_string();
    assert!(message.contains("`first` (Hardmax)") && message.contains("freeze"), "{message}");
    let behind = TrainOptions { freeze: vec!["fc1*".into()], ..options(3) };
    trainer(&model, &Masks::new(), &data, &behind).step().unwrap();
}

#[test]
fn bad_options_and_data_are_refused() {
    let place = Place::new();
    let (model, points) = (mlp(None, false), place.points("train.npz", 20, 1));
    let refused = |options: &FinetuneOptions| {
        let found = finetune(&model, &Masks::new(), None, options, &crate::progress::Silent, &mut |_| Ok(()));
        found.err().unwrap().to_string()
    };
    let base =
        FinetuneOptions { train: options(5), data: data(points.clone()), ..FinetuneOptions::default() };
    let with = |change: &dyn Fn(&mut FinetuneOptions)| {
        let mut options = base.clone();
        change(&mut options);
        refused(&options)
    };
    assert!(with(&|o| o.train.length = Length::Epochs(0)).contains("at least one step"));
    assert!(with(&|o| o.train.batch = 0).contains("at least one sample"));
    assert!(with(&|o| o.train.batch = 21).contains("20"));
    assert!(with(&|o| o.patience = Some(2)).contains("validation data"));
    assert!(with(&|o| o.train.output = Some("nothing".into())).contains("`nothing`"));
    assert!(with(&|o| o.train.loss.loss = Loss::Mse).contains("targets"));
    assert!(
        with(&|o| o.train.optimizer =
            OptimOptions { momentum: 0.0, nesterov: true, ..OptimOptions::default() })
        .contains("momentum")
    );
    let message =
        with(&|o| o.train.rate = Rate { rate: 1e30, schedule: RateSchedule::Constant, ..Rate::default() });
    assert!(message.contains("lower") && message.contains("1.00e30"), "{message}");
    let x = Tensor::new([20, 6], random(120, 1)).unwrap();
    let unlabelled = place.path("x.npz");
    write_npz(&[("x".into(), x)], &mut std::fs::File::create(&unlabelled).unwrap()).unwrap();
    assert!(with(&|o| o.data.data.paths = vec![unlabelled.clone()]).contains("no labels"));
    let validation = EvalOptions {
        data: DataSpec { paths: vec![unlabelled.clone()], ..DataSpec::default() },
        ..EvalOptions::default()
    };
    assert!(with(&|o| o.validation = Some(validation.clone())).contains("validation data have no labels"));
}
