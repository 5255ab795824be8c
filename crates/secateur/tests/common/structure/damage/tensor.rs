//! Damage to tensors: their shapes, their types, their elements.

use secateur_model::io::onnx::read_tensor;

use super::super::Numbers;
use super::super::wire::{Kind, Msg, Value};
use super::{absurd, absurd_float};

/// Bits of an element by ONNX's code of its type; `None` for strings and unknown codes.
fn bits(code: i64) -> Option<usize> {
    Some(match code {
        1 | 6 | 12 => 32,
        2 | 3 | 9 | 17..=20 | 24 => 8,
        4 | 5 | 10 | 16 => 16,
        7 | 11 | 13 | 14 => 64,
        15 => 128,
        21..=23 => 4,
        25 | 26 => 2,
        _ => return None,
    })
}

/// A `TensorProto` of raw bytes, repeated or cut to what the shape asks for.
pub(super) fn raw_tensor(name: &str, code: i64, dims: &[i64], bytes: &[u8]) -> Msg {
    let elements = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(usize::try_from(d).ok()?));
    let wanted = elements.zip(bits(code)).and_then(|(n, bits)| Some(n.checked_mul(bits)?.div_ceil(8)));
    let data: Vec<u8> = match wanted {
        Some(wanted) if wanted <= 1 << 20 => {
            let source: &[u8] = if bytes.is_empty() { &[0] } else { bytes };
            source.iter().copied().cycle().take(wanted).collect()
        }
        _ => bytes.to_vec(),
    };
    let mut msg = Msg::new(Kind::Tensor);
    msg.set_ints(1, dims);
    msg.set_int(2, code);
    msg.set_text(8, name);
    msg.set(9, [Value::Bytes(data)]);
    msg
}

/// A tensor's elements as raw bytes, however it holds them.
fn raw_bytes(tensor: &Msg) -> Option<Vec<u8>> {
    let read = read_tensor(tensor.write().into()).ok()?;
    secateur_model::model::encode(read.data()).ok()
}

/// Damages a tensor: its shape, its type, its elements.
pub(super) fn damage_tensor(tensor: &mut Msg, numbers: &mut Numbers) -> String {
    let name = tensor.text(8);
    let code = tensor.int(2).unwrap_or(1);
    let dims = tensor.ints(1);
    let Some(mut bytes) = raw_bytes(tensor) else {
        let wrong = [absurd(numbers)];
        tensor.set_ints(1, &wrong);
        return format!("constant {name}: dims {wrong:?}");
    };
    match numbers.below(8) {
        // Another shape, filled.
        0..=3 => {
            let mut dims = dims;
            let small =
                |numbers: &mut Numbers| *numbers.pick(&[0, 0, 1, 1, 2, 3, 4, 5, 7, 8, 16, 33, 64, 300]);
            match numbers.below(7) {
                0 => dims.push(small(numbers)),
                1 => dims.insert(0, 1),
                2 => drop(dims.pop()),
                3 => dims = vec![],
                4 => dims = vec![small(numbers)],
                5 if !dims.is_empty() => {
                    let other = numbers.below(dims.len());
                    dims.swap(0, other);
                }
                _ => {
                    let at = numbers.below(dims.len());
                    match dims.get_mut(at) {
                        Some(dim) => *dim = if numbers.one_in(2) { *dim + 1 } else { small(numbers) },
                        None => dims = vec![small(numbers), small(numbers)],
                    }
                }
            }
            *tensor = raw_tensor(&name, code, &dims, &bytes);
            format!("constant {name}: dims {dims:?}")
        }
        // A shape that is not what it holds.
        4 => {
            let mut wrong = dims;
            match wrong.len() {
                0 => wrong.push(absurd(numbers)),
                len => wrong[numbers.below(len)] = absurd(numbers),
            }
            tensor.set_ints(1, &wrong);
            format!("constant {name}: claims dims {wrong:?}")
        }
        // Another type.
        5 => {
            let other = *numbers.pick(&[1, 1, 6, 7, 7, 9, 10, 11, 16, 2, 3, 8, 12, 13, 14, 17, 21, 22]);
            *tensor = raw_tensor(&name, other, &dims, &bytes);
            format!("constant {name}: type {other}")
        }
        // Other elements.
        _ => {
            let all = numbers.one_in(3);
            let each = bits(code).unwrap_or(8).max(8) / 8;
            let count = bytes.len() / each;
            let at = numbers.below(count);
            let mut said = String::new();
            for i in (0..count).filter(|&i| all || i == at) {
                let value: Vec<u8> = match code {
                    1 => absurd_float(numbers).to_le_bytes().to_vec(),
                    7 | 13 => absurd(numbers).to_le_bytes().to_vec(),
                    6 | 12 => (absurd(numbers) as i32).to_le_bytes().to_vec(),
                    11 => f64::from(absurd_float(numbers)).to_le_bytes().to_vec(),
                    _ => numbers.next().to_le_bytes().iter().copied().cycle().take(each).collect(),
                };
                bytes[i * each..(i + 1) * each].copy_from_slice(&value);
                if said.len() < 60 {
                    said += &match code {
                        7 => format!(" {}", i64::from_le_bytes(value.try_into().unwrap_or_default())),
                        1 => format!(" {}", f32::from_le_bytes(value.try_into().unwrap_or_default())),
                        _ => format!(" {value:?}"),
                    };
                }
            }
            *tensor = raw_tensor(&name, code, &dims, &bytes);
            format!("constant {name}: {} elements:{said}", if all { count } else { 1 })
        }
    }
}
