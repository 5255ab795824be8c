use half::{bf16, f16};
use proptest::prelude::*;

use super::*;
use crate::Tensor;
use crate::model::encode;

fn bytes(data: &Data) -> Vec<u8> {
    encode(data).unwrap()
}

/// Elements of any bits, zeros by chance; −0, NaN and infinities among them.
fn elements(len: usize) -> impl Strategy<Value = Vec<u32>> {
    let element = prop_oneof![6 => Just(0u32), 2 => any::<u32>(), 1 => prop_oneof![
        Just(0x8000_0000u32), Just(0x7fc0_1234), Just(0xff80_0000), Just(1)
    ]];
    proptest::collection::vec(element, len)
}

fn shaped() -> impl Strategy<Value = (Vec<usize>, Vec<u32>)> {
    proptest::collection::vec(prop_oneof![1usize..7, Just(8), Just(16), Just(20)], 1..4).prop_flat_map(
        |shape| {
            let len = shape.iter().product();
            (Just(shape), elements(len))
        },
    )
}

fn of_type(dtype: DType, bits: &[u32]) -> Data {
    match dtype {
        DType::F64 => {
            Data::F64(bits.iter().map(|&b| f64::from_bits(u64::from(b) << 32 | u64::from(b))).collect())
        }
        DType::F16 => Data::F16(bits.iter().map(|&b| f16::from_bits((b >> 16) as u16)).collect()),
        DType::BF16 => Data::BF16(bits.iter().map(|&b| bf16::from_bits((b >> 16) as u16)).collect()),
        DType::I8 => Data::I8(bits.iter().map(|&b| (b >> 24) as i8).collect()),
        _ => Data::F32(bits.iter().map(|&b| f32::from_bits(b)).collect()),
    }
}

/// The same with +0 for −0.
fn without_signs_of_zeros(data: &Data) -> Data {
    match data {
        Data::F64(v) => Data::F64(v.iter().map(|&v| if v == 0.0 { 0.0 } else { v }).collect()),
        Data::F16(v) => Data::F16(v.iter().map(|&v| if v == f16::ZERO { f16::ZERO } else { v }).collect()),
        Data::BF16(v) => {
            Data::BF16(v.iter().map(|&v| if v == bf16::ZERO { bf16::ZERO } else { v }).collect())
        }
        Data::F32(v) => Data::F32(v.iter().map(|&v| if v == 0.0 { 0.0 } else { v }).collect()),
        other => other.clone(),
    }
}

proptest! {
    #[test]
    fn unpacking_gives_every_bit_but_signs_of_zeros_back((shape, bits) in shaped(), at in 0usize..5) {
        let dtype = [DType::F32, DType::F64, DType::F16, DType::BF16, DType::I8][at];
        let tensor = Tensor::from_data(shape.clone(), of_type(dtype, &bits)).unwrap();
        for choice in [Choice::Smallest, Choice::Compatible] {
            let spec = choice.spec(&tensor, &ValueType::Exact).unwrap();
            let (packed, rounding) = pack(&tensor, spec.layout, ValueType::Exact).unwrap();
            prop_assert_eq!(bytes(&packed.unpack()), bytes(&without_signs_of_zeros(tensor.data())));
            prop_assert_eq!(rounding, Rounding::default());
            prop_assert_eq!(packed.spec(), spec);
        }
    }

    #[test]
    fn groups_are_found_along_every_axis(
        dims in (1usize..4, 1usize..4, 1usize..4), axis in 0usize..3, pattern in 0usize..5, seed: u64,
    ) {
        let (n, m) = [(1, 2), (1, 4), (1, 8), (2, 16), (3, 32)][pattern];
        let mut shape = vec![dims.0, dims.1, dims.2];
        shape[axis] *= m;
        let (len, inner): (usize, usize) = (shape.iter().product(), shape[axis + 1..].iter().product());
        let mut state = seed;
        let mut below = |end: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % end
        };
        let mut values = vec![0f32; len];
        for start in layout::starts(&vec![true; len], shape[axis], inner, m) {
            for _ in 0..n {
                values[start + below(m) * inner] = 1.0 + below(100) as f32;
            }
        }
        let tensor = Tensor::new(shape.clone(), values.clone()).unwrap();
        let groups = Layout::Groups(GroupLayout { n, m, axis });
        let (packed, _) = pack(&tensor, groups, ValueType::Exact).unwrap();
        prop_assert_eq!(packed.unpack(), Data::F32(values));
        prop_assert_eq!(packed.stored(), len / m * n);
        // Never larger than the bitmask, nor than the pattern that is there.
        let smallest = pack(&tensor, Choice::Smallest.spec(&tensor, &ValueType::Exact).unwrap().layout, ValueType::Exact)
            .unwrap().0;
        let mask = pack(&tensor, Layout::bitmask(&shape), ValueType::Exact).unwrap().0;
        prop_assert!(smallest.byte_len() <= packed.byte_len().min(mask.byte_len()));
    }

    #[test]
    fn rounded_values_are_near(
        shape in proptest::collection::vec(1usize..9, 1..4), seed: u64, axis in 0usize..3,
    ) {
        let axis = axis % shape.len();
        let len: usize = shape.iter().product();
        let values: Vec<f32> = (0..len as u64).map(|i| {
            let x = seed.wrapping_add(i).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            if x % 3 == 0 { 0.0 } else { (x as f32 - (1 << 23) as f32) * 1e-6 }
        }).collect();
        let tensor = Tensor::new(shape.clone(), values.clone()).unwrap();
        for (kind, bound) in [(ValueType::F16, 1.0 / 2048.0), (ValueType::Int8 { axis }, 0.5 / 127.0)] {
            let spec = Choice::Smallest.spec(&tensor, &kind).unwrap();
            let (packed, rounding) = pack(&tensor, spec.layout, kind).unwrap();
            prop_assert_eq!(packed.spec(), spec);
            let after = Tensor::from_data(shape.clone(), packed.unpack()).unwrap().to_f32s().unwrap();
            prop_assert!(rounding.max_relative() <= bound * 1.001, "{}", rounding.max_relative());
            prop_assert_eq!(
                rounding.to_zero, values.iter().zip(&after).filter(|(w, r)| **w != 0.0 && **r == 0.0).count()
            );
            prop_assert!(values.iter().zip(&after).all(|(w, r)| *w != 0.0 || *r == 0.0));
        }
    }
}

#[test]
fn zeros_lose_their_signs() {
    let values = vec![-0.0f32, 1.5, 0.0, -0.0, -0.0, -0.0, -0.0, 2.0];
    let tensor = Tensor::new([1, 8], values).unwrap();
    assert_eq!(negative_zeros(&tensor), 5);
    let plain = [0.0f32, 1.5, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0].map(f32::to_bits);
    // The second group of 2:4 holds one value and stores a zero beside it.
    for layout in [Layout::bitmask(&[1, 8]), Layout::Groups(GroupLayout { n: 2, m: 4, axis: 1 })] {
        let (packed, _) = pack(&tensor, layout, ValueType::Exact).unwrap();
        let Data::F32(unpacked) = packed.unpack() else { panic!("another type") };
        assert_eq!(unpacked.iter().map(|v| v.to_bits()).collect::<Vec<_>>(), plain);
    }
    let half = Tensor::from_data([2], Data::F16(vec![f16::NEG_ZERO, f16::NEG_ONE])).unwrap();
    assert_eq!(negative_zeros(&half), 1);
    let (packed, _) = pack(&half, Layout::bitmask(&[2]), ValueType::Exact).unwrap();
    assert_eq!(packed.stored(), 1);
}

#[test]
fn int8_is_as_its_formula_says() {
    // Rows of 2: scales 1.27 / 127 and 0.
    let tensor = Tensor::new([2, 2], vec![1.27f32, -0.004, 0.0, 0.0]).unwrap();
    let kind = ValueType::Int8 { axis: 0 };
    let (packed, rounding) = pack(&tensor, Layout::Bitmask { cols: 2 }, kind).unwrap();
    assert_eq!(&packed.values()[..], [127, 0]);
    assert_eq!(packed.scales().unwrap().values(), [1.27 / 127.0, 0.0]);
    assert_eq!(packed.scales().unwrap().shape(), [2, 1]);
    assert_eq!(rounding.to_zero, 1);
    assert!((rounding.max_relative() - 0.004 / 1.27).abs() < 1e-6);
}

#[test]
fn what_a_type_cannot_hold_is_refused() {
    let refused = |value: f32, kind: ValueType| {
        let tensor = Tensor::new([2], vec![value, 1.0]).unwrap();
        pack(&tensor, Layout::bitmask(&[2]), kind).is_err()
    };
    assert!(refused(1e6, ValueType::F16));
    assert!(!refused(f32::INFINITY, ValueType::F16));
    assert!(refused(f32::NAN, ValueType::Int8 { axis: 0 }));
    assert!(refused(1e-44, ValueType::Int8 { axis: 0 }));
}

#[test]
fn a_scalar_has_one_scale() {
    for scales in [vec![], vec![1], vec![1, 1]] {
        let mask = Positions::Bitmask(Bitmask::new(1, vec![1].into()).unwrap());
        let scales = Some(Scales::new(scales, vec![0.5]).unwrap());
        let packed = Packed::new(DType::F32, vec![], mask, DType::I8, vec![6].into(), scales).unwrap();
        assert_eq!(packed.unpack(), Data::F32(vec![3.0]));
    }
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let mask = |bits: &[u8], cols| Bitmask::new(cols, Bytes::copy_from_slice(bits)).map(Positions::Bitmask);
    let new = |positions: Positions, shape: &[usize], values: usize| {
        Packed::new(DType::F32, shape.to_vec(), positions, DType::F32, vec![0; values * 4].into(), None)
    };
    assert!(new(mask(&[0b101, 0b010], 3).unwrap(), &[2, 3], 3).is_ok());
    for (bits, cols, what) in
        [(&[0b1000u8][..], 3, "behind its 3"), (&[0, 0, 0], 9, "no rows"), (&[0], 0, "no rows")]
    {
        let message = mask(bits, cols).unwrap_err().to_string();
        assert!(message.contains(what), "{message}");
    }
    for (shape, values, what) in [
        (&[2usize, 3][..], 2, "3 values, but 2"),
        (&[2, 3], 4, "3 values, but 4"),
        (&[2, 4], 3, "the shape [2, 4]"),
        (&[0, 3], 3, "empty, or too large"),
        (&[usize::MAX, 3], 3, "empty, or too large"),
    ] {
        let message = new(mask(&[0b101, 0b010], 3).unwrap(), shape, values).unwrap_err().to_string();
        assert!(message.contains(what), "{message}");
    }
    let groups = |n, m, axis, shape: &[usize], indices: &[u8]| {
        Groups::new(GroupLayout { n, m, axis }, shape, Bytes::copy_from_slice(indices))
    };
    assert!(groups(2, 4, 1, &[1, 4], &[0b0100]).is_ok());
    for (n, m, axis, shape, indices, what) in [
        (2, 4, 1, &[1usize, 4][..], &[0b0001u8][..], "do not ascend"),
        (2, 4, 1, &[1, 4], &[0], "do not ascend"),
        (1, 3, 0, &[3], &[0b11], "below 3"),
        (2, 4, 2, &[1, 4], &[0], "does not divide"),
        (2, 4, 1, &[1, 6], &[0], "does not divide"),
        (5, 4, 1, &[1, 4], &[0], "does not divide"),
        (1, 64, 0, &[64], &[0], "does not divide"),
        (2, 4, 1, &[1, 4], &[0, 0], "bytes of indices"),
    ] {
        let message = groups(n, m, axis, shape, indices).unwrap_err().to_string();
        assert!(message.contains(what), "{message}");
    }
}
