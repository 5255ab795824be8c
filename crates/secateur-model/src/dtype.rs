//! Element types.

use std::fmt;

macro_rules! dtypes {
    ($($(#[$doc:meta])* $variant:ident = $onnx:literal, $name:literal, $bits:literal;)*) => {
        /// Every element type that ONNX knows. Storage carries them all; compute is f32 first.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum DType { $($(#[$doc])* $variant,)* }

        impl DType {
            /// All element types.
            pub const ALL: &'static [DType] = &[$(DType::$variant,)*];

            /// The type with ONNX's number (`TensorProto.DataType`), where there is one.
            pub fn from_onnx(number: i32) -> Option<Self> {
                match number { $($onnx => Some(DType::$variant),)* _ => None }
            }

            /// ONNX's number of the type (`TensorProto.DataType`).
            pub fn to_onnx(self) -> i32 {
                match self { $(DType::$variant => $onnx,)* }
            }

            /// The short name, such as `f32`.
            pub fn name(self) -> &'static str {
                match self { $(DType::$variant => $name,)* }
            }

            /// Bits an element takes in storage; 0 for strings, whose length varies.
            pub fn bits(self) -> usize {
                match self { $(DType::$variant => $bits,)* }
            }
        }
    };
}

dtypes! {
    /// 32-bit IEEE float.
    F32 = 1, "f32", 32;
    /// Unsigned 8-bit integer.
    U8 = 2, "u8", 8;
    /// Signed 8-bit integer.
    I8 = 3, "i8", 8;
    /// Unsigned 16-bit integer.
    U16 = 4, "u16", 16;
    /// Signed 16-bit integer.
    I16 = 5, "i16", 16;
    /// Signed 32-bit integer.
    I32 = 6, "i32", 32;
    /// Signed 64-bit integer.
    I64 = 7, "i64", 64;
    /// UTF-8 strings.
    String = 8, "string", 0;
    /// Booleans, a byte each.
    Bool = 9, "bool", 8;
    /// 16-bit IEEE float.
    F16 = 10, "f16", 16;
    /// 64-bit IEEE float.
    F64 = 11, "f64", 64;
    /// Unsigned 32-bit integer.
    U32 = 12, "u32", 32;
    /// Unsigned 64-bit integer.
    U64 = 13, "u64", 64;
    /// Complex of two f32.
    C64 = 14, "c64", 64;
    /// Complex of two f64.
    C128 = 15, "c128", 128;
    /// The upper half of an f32.
    BF16 = 16, "bf16", 16;
    /// 8-bit float, 4 exponent bits, finite.
    F8E4M3FN = 17, "f8e4m3fn", 8;
    /// 8-bit float, 4 exponent bits, finite, no negative zero.
    F8E4M3FNUZ = 18, "f8e4m3fnuz", 8;
    /// 8-bit float, 5 exponent bits.
    F8E5M2 = 19, "f8e5m2", 8;
    /// 8-bit float, 5 exponent bits, finite, no negative zero.
    F8E5M2FNUZ = 20, "f8e5m2fnuz", 8;
    /// Unsigned 4-bit integer, two a byte.
    U4 = 21, "u4", 4;
    /// Signed 4-bit integer, two a byte.
    I4 = 22, "i4", 4;
    /// 4-bit float, two a byte.
    F4E2M1 = 23, "f4e2m1", 4;
    /// 8-bit power of two (a scale).
    F8E8M0 = 24, "f8e8m0", 8;
    /// Unsigned 2-bit integer, four a byte.
    U2 = 25, "u2", 2;
    /// Signed 2-bit integer, four a byte.
    I2 = 26, "i2", 2;
    /// 6-bit float, 2 exponent bits; packed as a stream of bits, four in three bytes.
    F6E2M3 = 27, "f6e2m3", 6;
    /// 6-bit float, 3 exponent bits; packed as a stream of bits, four in three bytes.
    F6E3M2 = 28, "f6e3m2", 6;
}

impl DType {
    /// Whether weights of this type can be scored and pruned: f32, f16, bf16, f64.
    pub fn is_prunable(self) -> bool {
        matches!(self, DType::F32 | DType::F16 | DType::BF16 | DType::F64)
    }

    /// Bytes that `elements` of this type take, packed; `None` for strings and on overflow.
    pub fn bytes_for(self, elements: usize) -> Option<usize> {
        match self.bits() {
            0 => None,
            bits if bits >= 8 => elements.checked_mul(bits / 8),
            bits => elements.checked_mul(bits).map(|bits| bits.div_ceil(8)),
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn onnx_numbers_round_trip() {
        for &dtype in DType::ALL {
            assert_eq!(DType::from_onnx(dtype.to_onnx()), Some(dtype));
        }
        assert_eq!(DType::from_onnx(0), None);
    }

    #[test]
    fn narrow_types_are_packed() {
        assert_eq!(DType::I4.bytes_for(3), Some(2));
        assert_eq!(DType::U2.bytes_for(5), Some(2));
        assert_eq!(DType::F6E3M2.bytes_for(5), Some(4));
        assert_eq!(DType::F64.bytes_for(usize::MAX), None);
    }
}
