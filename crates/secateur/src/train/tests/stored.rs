//! Weights in other types and forms, and the forms of masks.

use super::*;

/// The model with its weights in another form.
fn stored_as(model: &Model, change: &dyn Fn(Vec<f32>, &[usize]) -> Storage, dtype: DType) -> Arc<Model> {
    let mut model = model.clone();
    for stored in model.tensors.values_mut().filter(|stored| stored.shape.len() == 2) {
        let values = stored.load().unwrap().to_f32s().unwrap();
        (stored.storage, stored.dtype) = (change(values, &stored.shape), dtype);
    }
    Arc::new(model)
}

#[test]
fn other_types_train_as_f32_and_are_written_back() {
    let place = Place::new();
    let data = data(place.points("train.npz", 40, 1));
    let dense = mlp(None, false);
    let half = |values: Vec<f32>| -> Data { Data::F16(values.into_iter().map(f16::from_f32).collect()) };
    let brain = |values: Vec<f32>| -> Data { Data::BF16(values.into_iter().map(bf16::from_f32).collect()) };
    let double = |values: Vec<f32>| -> Data { Data::F64(values.into_iter().map(f64::from).collect()) };
    type Make<'a> = &'a dyn Fn(Vec<f32>) -> Data;
    for (make, dtype) in [(&half as Make<'_>, DType::F16), (&brain, DType::BF16), (&double, DType::F64)] {
        let model = stored_as(&dense, &|values, _| Storage::Data(Arc::new(make(values))), dtype);
        let rounded = |values, _: &[usize]| {
            let data: Data = make(values);
            let narrow = Tensor::from_data([data.len()], data).unwrap();
            Storage::Data(Arc::new(Data::F32(narrow.to_f32s().unwrap())))
        };
        let masters = stored_as(&dense, &rounded, DType::F32);
        let (own, wide) = (trained(&model, &data, &options(10)), trained(&masters, &data, &options(10)));
        for path in ["fc1.weight", "fc2.weight"] {
            let id = model.tensor_id(path).unwrap();
            let found = own.patch().unwrap().load(&model, id).unwrap();
            assert_eq!(found.dtype(), dtype);
            let expected = Tensor::from_data(found.shape(), make(values(&wide, path))).unwrap();
            assert_eq!(found.to_f32s().unwrap(), expected.to_f32s().unwrap(), "{path} {dtype}");
            assert_ne!(found.to_f32s().unwrap(), model.tensor(id).load().unwrap().to_f32s().unwrap());
        }
    }
}

#[test]
fn packed_weights_stay_packed() {
    let place = Place::new();
    let data = data(place.points("train.npz", 40, 1));
    let sparse = |values: Vec<f32>| -> Vec<f32> {
        values.into_iter().enumerate().map(|(i, v)| if i % 2 == 0 { v } else { 0.0 }).collect()
    };
    let dense = stored_as(
        &mlp(None, false),
        &|values, _| Storage::Data(Arc::new(Data::F32(sparse(values)))),
        DType::F32,
    );
    for kind in [ValueType::Exact, ValueType::F16, ValueType::Int8 { axis: 0 }] {
        let packs = |values: Vec<f32>, shape: &[usize]| {
            let tensor = Tensor::new(shape, values).unwrap();
            Storage::Packed(Arc::new(pack(&tensor, Layout::bitmask(shape), kind).unwrap().0))
        };
        let model = stored_as(&dense, &packs, DType::F32);
        let patch = trained(&model, &data, &options(10)).patch().unwrap();
        for path in ["fc1.weight", "fc2.weight"] {
            let id = model.tensor_id(path).unwrap();
            let former = model.tensor(id).packed().unwrap().spec();
            let (spec, _) = patch.packing(&model, id).unwrap();
            assert_eq!(spec, former);
            let (after, before) = (of_patch(&model, &patch, path), model.tensor(id).load().unwrap());
            assert_ne!(after, before.to_f32s().unwrap());
            assert!(after.iter().enumerate().all(|(i, v)| (*v == 0.0) == (i % 2 == 1)), "{path} {kind:?}");
        }
    }
}

#[test]
fn what_is_written_keeps_the_form_of_its_masks() {
    let place = Place::new();
    let data = data(place.points("train.npz", 40, 1));
    let mut net = Net::new(None, &[6]);
    net.tensor("fc.weight_orig", &[3, 6], random(18, 1));
    net.tensor("fc.weight_mask", &[3, 6], (0..18).map(|i| f32::from(u8::from(i % 3 == 0))).collect());
    net.tensor("fc.bias", &[3], random(3, 2));
    net.node("Gemm", &["x", "fc.weight_orig", "fc.bias"], "z", TRANSPOSED);
    let model = net.ends_with("z");
    let found = masks::Masks::of(&model).unwrap();
    assert_eq!((found.form(), found.masks.len()), (Form::Pairs, 1));
    let options = FinetuneOptions { train: options(10), data, ..FinetuneOptions::default() };
    let tuned = finetune(&model, &found.masks, None, &options, &crate::progress::Silent, &mut |_| Ok(()));
    let tuned = tuned.unwrap();
    let trained = of_patch(&model, &tuned.patch, "fc.weight_orig");
    let written = |form| masks::trained(&model, &tuned.patch, &tuned.masks, &found, form).unwrap();

    let pairs = written(Form::Pairs).patch.apply(&model).unwrap();
    let of = |model: &Model, path: &str| model.tensors[path].load().unwrap().to_f32s().unwrap();
    let (orig, mask, before) = (of(&pairs, "fc.weight_orig"), of(&pairs, "fc.weight_mask"), random(18, 1));
    for i in 0..18 {
        let kept = i % 3 == 0;
        assert_eq!(mask[i], f32::from(u8::from(kept)));
        assert_eq!(orig[i], if kept { trained[i] } else { before[i] });
        assert_eq!(trained[i] == 0.0, !kept);
    }
    assert_eq!(of(&pairs, "fc.bias"), of_patch(&model, &tuned.patch, "fc.bias"));

    let sidecar = written(Form::Sidecar);
    assert!(sidecar.has_sidecar() && !written(Form::Zeros).has_sidecar());
    for form in [Form::Sidecar, Form::Zeros] {
        let path = place.path(&format!("{form:?}.safetensors"));
        let output = written(form);
        let write = || secateur_model::io::write(&model, &output.patch, &[], &path, Default::default());
        output.write(&model, &path, false, write).unwrap();
        let again = secateur_model::io::read(&path).unwrap();
        assert_eq!(of(&again, "fc.weight"), trained);
        let masks = masks::Masks::of(&again).unwrap();
        assert_eq!((masks.form(), masks.masks.len()), (form, usize::from(form == Form::Sidecar)));
    }
}
