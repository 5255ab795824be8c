//! Damaged and hostile PyTorch checkpoints: an error, or a model that is whole; never a panic, never
//! anything executed, and no memory for what is only claimed.

mod common;
#[path = "common/exercise.rs"]
mod exercise;

use std::io::Write;

use common::*;
use secateur_model::{ErrorKind, io};
use zip::CompressionMethod;
use zip::write::SimpleFileOptions;

const GOLDENS: [&str; 4] = ["kinds.pt", "kinds-legacy.pt", "training.pt", "training-legacy.pt"];

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(torch_goldens().join(name)).unwrap()
}

#[test]
fn goldens_are_exercised_whole() {
    for name in GOLDENS {
        exercise::model(&golden(name));
        exercise::table(&golden(name));
    }
}

#[test]
fn every_cut_is_an_error() {
    for name in GOLDENS {
        let source = golden(name);
        for end in 0..source.len() {
            assert!(io::read_bytes(source[..end].to_vec()).is_err(), "{name} cut at {end}");
        }
    }
}

#[test]
fn flipped_bits_and_damage_at_random() {
    let mut numbers = Numbers(11);
    for name in GOLDENS {
        let source = golden(name);
        let mut flipped = source.clone();
        for at in (0..source.len()).step_by(3) {
            let bit = 1 << numbers.below(8);
            flipped[at] ^= bit;
            exercise::model(&flipped);
            if at % 2 == 0 {
                exercise::table(&flipped);
            }
            flipped[at] ^= bit;
        }
        for _ in 0..400 {
            let bytes = damage(&source, &mut numbers);
            exercise::model(&bytes);
            exercise::table(&bytes);
        }
    }
}

/// A zip archive of records.
fn archive(records: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, content) in records {
        zip.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A checkpoint around a pickle, with one storage of 16 bytes.
fn checkpoint(pickle: &[u8]) -> Vec<u8> {
    archive(&[("a/data.pkl", pickle), ("a/data/0", &[1; 16])], CompressionMethod::Stored)
}

/// The same in the layout before PyTorch 1.6.
fn legacy(pickle: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}.".to_vec();
    bytes.extend(pickle);
    // The size of its elements stands with the tensors, so without one it is not listed.
    if !pickle.windows(7).any(|w| w == b"storage") {
        return [&bytes, &b"\x80\x02]."[..]].concat();
    }
    bytes.extend(b"\x80\x02]q\x00X\x01\x00\x00\x000a.");
    bytes.extend(4u64.to_le_bytes());
    bytes.extend([1; 16]);
    bytes
}

fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

fn int(value: i32) -> Vec<u8> {
    [b"J", &value.to_le_bytes()[..]].concat()
}

/// A dictionary `{"w": tensor}` where the tensor is a view of the storage `0`.
fn with_tensor(class: &str, elements: Vec<u8>, offset: i32, shape: &[i32], strides: &[i32]) -> Vec<u8> {
    let tuple = |values: &[i32]| {
        [b"(".to_vec(), values.iter().flat_map(|&v| int(v)).collect(), b"t".to_vec()].concat()
    };
    [
        b"\x80\x02}".to_vec(),
        text("w"),
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        format!("ctorch\n{class}\n").into_bytes(),
        text("0"),
        text("cpu"),
        elements,
        b"tQ".to_vec(),
        int(offset),
        tuple(shape),
        tuple(strides),
        b"\x89NtRs.".to_vec(),
    ]
    .concat()
}

fn refused(pickle: &[u8], kind: ErrorKind, words: &[&str]) {
    for bytes in [checkpoint(pickle), legacy(pickle)] {
        refused_file(bytes, kind, words);
    }
}

fn refused_file(bytes: Vec<u8>, kind: ErrorKind, words: &[&str]) {
    let error = io::read_bytes(bytes).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "no `{word}`: {error}");
    }
}

#[test]
fn the_harness_makes_checkpoints_that_read() {
    let pickle = with_tensor("FloatStorage", int(4), 1, &[3], &[1]);
    for bytes in [checkpoint(&pickle), legacy(&pickle)] {
        exercise::model(&bytes);
        exercise::table(&bytes);
        let model = io::read_bytes(bytes).unwrap();
        assert_eq!(data(&model, "w").len(), 3);
    }
    let records: [(&str, &[u8]); 2] = [("a/data.pkl", &pickle), ("a/data/0", &[1; 16])];
    let model = io::read_bytes(archive(&records, CompressionMethod::Deflated)).unwrap();
    let zeros = set(&model, "w", vec![0f32; 3]);
    let again = io::read_bytes(write(&model, &zeros)).unwrap();
    assert_eq!(data(&again, "w"), secateur_model::Data::F32(vec![0.0; 3]));
}

#[test]
fn nothing_is_called_and_the_way_out_is_said() {
    let way_out = "torch.save(model.state_dict()";
    for (pickle, name) in [
        (&b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R."[..], "`posix.system`"),
        (b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.", "`os.system`"),
        (b"\x80\x02c__builtin__\neval\nX\x01\x00\x00\x001\x85R.", "`__builtin__.eval`"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93\x8c\x011\x85R.", "`builtins.exec`"),
        // By way of the memo, and as an object that is given a state.
        (b"\x80\x02cos\nsystem\nq\x010h\x01X\x01\x00\x00\x001\x85R.", "`os.system`"),
        (b"\x80\x02c__main__\nNet\n)\x81}b.", "`__main__.Net`"),
        (b"\x80\x02}X\x01\x00\x00\x00aceval\nx\n)Rs.", "`eval.x`"),
        // What is called is itself made by a call.
        (b"\x80\x02ccollections\nOrderedDict\n)R)R.", "makes itself"),
    ] {
        refused(pickle, ErrorKind::Unsupported, &[name, way_out]);
    }
    // A name that is not called is a name.
    assert!(io::read_bytes(checkpoint(b"\x80\x02cos\nsystem\n.")).unwrap().tensors.is_empty());
}

/// Names for one tensor, from the checkpoint of one.
fn named(pickle: &[u8], names: usize) -> Vec<u8> {
    let start = b"\x80\x02}".len() + text("w").len();
    let value = &pickle[start..pickle.len() - 1];
    let entries = (0..names).flat_map(|i| [&text(&format!("w{i}"))[..], value].concat());
    [b"\x80\x02}".to_vec(), entries.collect(), b".".to_vec()].concat()
}

#[test]
fn many_names_for_the_same_bytes_are_counted_each() {
    // Each view alone takes 64 MiB, which any file may.
    let repeated = with_tensor("FloatStorage", int(4), 0, &[16, 1 << 20], &[0, 0]);
    assert_eq!(io::read_bytes(checkpoint(&named(&repeated, 4))).unwrap().tensors.len(), 4);
    refused(&named(&repeated, 64), ErrorKind::Unsupported, &["w4", "contiguous"]);

    // A row-major view needs no copy in memory, but one for each name where it is written by name.
    let plain = with_tensor("FloatStorage", int(1 << 20), 0, &[1 << 20], &[1]);
    let file = |names| {
        let records: [(&str, &[u8]); 2] =
            [("a/data.pkl", &named(&plain, names)), ("a/data/0", &[1; 4 << 20])];
        archive(&records, CompressionMethod::Stored)
    };
    assert_eq!(io::read_bytes(file(40)).unwrap().tensors.len(), 40);
    refused_file(file(300), ErrorKind::Input, &["same bytes"]);
}

#[test]
fn malformed_pickles_are_errors() {
    let input = ErrorKind::Input;
    for pickle in [
        &b"\x80\x02"[..],
        b"\x80\x02.",
        b"\x80\x02N",
        b"\x80\x02(.",
        b"\x80\x02N(a.",
        b"\x80\x02h\x05.",
        b"\x80\x02Na.",
        b"\x80\x02NNa.",
        b"\x80\x02}Ns.",
        b"\x80\x02}(Nu.",
        b"\x80\x02]N\x81.",
        b"\x80\x02}}b.",
        b"\x80\x02t.",
        b"\x80\x02cos.",
        b"\x80\x02Ix\n.",
        b"\x80\x02X\x01\x00\x00\x00\xff.",
        b"\x80\x04\x8c\x02o\n\x8c\x01x\x93.",
        // Persistent ids that are none.
        b"\x80\x02NQ.",
        b"\x80\x02)Q.",
    ] {
        refused_file(checkpoint(pickle), input, &[]);
    }
    refused(b"\x80\x01N.", ErrorKind::Unsupported, &["protocol 1"]);
    refused(b"\x80\x02\x82\x01.", ErrorKind::Unsupported, &["operation 0x82"]);
}

#[test]
fn claimed_lengths_take_no_memory() {
    for pickle in [
        &b"\x80\x02X\xff\xff\xff\xff"[..],
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x80\x02\x8b\xff\xff\xff\x7f",
        b"\x80\x02\x8b\xff\xff\xff\xff",
        b"\x80\x02T\xff\xff\xff\x7f",
        b"\x80\x04B\xff\xff\xff\xff",
    ] {
        refused(pickle, ErrorKind::Input, &["cut off"]);
    }
}

#[test]
fn views_stay_within_their_storages() {
    let long = |value: i64| [b"\x8a\x08", &value.to_le_bytes()[..]].concat();
    let float = "FloatStorage";
    let input = ErrorKind::Input;
    for (pickle, word) in [
        (with_tensor(float, long(1 << 40), 0, &[4], &[1]), "storage `0`"),
        (with_tensor(float, long(i64::MAX), 0, &[4], &[1]), "storage `0`"),
        (with_tensor(float, long(-1), 0, &[4], &[1]), "storage"),
        (with_tensor("DoubleStorage", int(4), 0, &[4], &[1]), "storage `0`"),
        (with_tensor(float, int(4), 1, &[4], &[1]), "`w`"),
        (with_tensor(float, int(2), 0, &[4], &[1]), "`w`"),
        (with_tensor(float, int(4), -1, &[4], &[1]), "`w`"),
        (with_tensor(float, int(4), 3, &[4], &[-1]), "`w`"),
        (with_tensor(float, int(4), 0, &[-4], &[1]), "`w`"),
        (with_tensor(float, int(4), 0, &[2, 2], &[1]), "`w`"),
        (with_tensor(float, int(4), 0, &[2], &[i32::MAX]), "`w`"),
        (with_tensor(float, int(4), 0, &[i32::MAX; 4], &[0; 4]), "`w`"),
        (with_tensor(float, int(4), 0, &[1; 65], &[1; 65]), "`w`"),
    ] {
        for bytes in [checkpoint(&pickle), legacy(&pickle)] {
            let error = io::read_bytes(bytes).unwrap_err();
            assert_eq!(error.kind(), input, "{error}");
            assert!(error.to_string().contains(word), "{error}");
        }
    }
    let repeated = with_tensor(float, int(4), 0, &[1 << 30, 1 << 10], &[0, 0]);
    refused(&repeated, ErrorKind::Unsupported, &["`w`", "contiguous()"]);
    let unknown = with_tensor("QInt8Storage", int(4), 0, &[4], &[1]);
    refused(&unknown, ErrorKind::Unsupported, &["`w`", "QInt8Storage", "dequantize"]);
    refused(&with_tensor("Tensor", int(4), 0, &[4], &[1]), ErrorKind::Unsupported, &["`torch.Tensor`"]);
    let missing = archive(
        &[("a/data.pkl", &with_tensor(float, int(4), 0, &[4], &[1])), ("a/version", b"3\n")],
        CompressionMethod::Stored,
    );
    refused_file(missing, input, &["storage `0`", "not in the archive"]);
}

#[test]
fn other_kinds_of_tensors_are_refused_by_name() {
    for (function, what) in [("_rebuild_sparse_tensor", "sparse"), ("_rebuild_nested_tensor", "nested")] {
        let pickle =
            [b"\x80\x02}".to_vec(), text("layer.w"), format!("ctorch._utils\n{function}\n)Rs.").into()];
        refused(&pickle.concat(), ErrorKind::Unsupported, &["tensor `layer.w`", what]);
    }
}

#[test]
fn nesting_and_references_are_bounded() {
    let deep = [b"\x80\x02".to_vec(), vec![b']'; 100_000], vec![b'a'; 99_999], b".".to_vec()].concat();
    refused(&deep, ErrorKind::Input, &["deeper than 100"]);
    // A list that contains itself, and a dictionary.
    for pickle in [&b"\x80\x02]q\x00h\x00a."[..], b"\x80\x02}q\x00X\x05\x00\x00\x00modelh\x00s."] {
        let bytes = checkpoint(pickle);
        assert!(io::read_bytes(bytes.clone()).unwrap().tensors.is_empty());
        exercise::model(&bytes);
    }
    // Sixty lists, each twice in the next: 2⁶⁰ ways to one tensor.
    let tensor = with_tensor("FloatStorage", int(4), 0, &[4], &[1]);
    let mut pickle = tensor[..tensor.len() - 1].to_vec();
    for index in 1..=60 {
        pickle.extend([b'q', index, b'0', b']', b'(', b'h', index, b'h', index, b'e']);
    }
    pickle.push(b'.');
    for bytes in [checkpoint(&pickle), legacy(&pickle)] {
        let model = io::read_bytes(bytes.clone()).unwrap();
        assert_eq!(model.tensors.len(), 1);
        exercise::model(&bytes);
        exercise::table(&bytes);
    }
    // More values than weights have; the memory they take is bounded.
    let many = [b"\x80\x02(".to_vec(), vec![b'N'; (1 << 23) + 1], b"t.".to_vec()].concat();
    refused_file(checkpoint(&many), ErrorKind::Unsupported, &["values"]);
    // A long name in each of many ways.
    let mut pickle = b"\x80\x02}(".to_vec();
    pickle.extend(text(&"n".repeat(1 << 20)));
    pickle.extend(b"](");
    pickle.extend(b"]".repeat(100_000));
    pickle.extend(b"eu.");
    refused_file(checkpoint(&pickle), ErrorKind::Input, &["more text"]);
}

#[test]
fn archives_that_are_no_checkpoint_or_lie_are_refused() {
    let stored = CompressionMethod::Stored;
    let pickle = with_tensor("FloatStorage", int(4), 0, &[4], &[1]);
    let input = ErrorKind::Input;
    refused_file(archive(&[("a.txt", b"text")], stored), input, &["data.pkl", "unpack"]);
    refused_file(archive(&[("data.pkl", &pickle)], stored), input, &["data.pkl"]);
    let script: [(&str, &[u8]); 3] =
        [("a/data.pkl", &pickle), ("a/constants.pkl", b""), ("a/code/x.py", b"")];
    refused_file(archive(&script, stored), ErrorKind::Unsupported, &["TorchScript", "torch.jit.load"]);
    let big: [(&str, &[u8]); 2] = [("a/data.pkl", &pickle), ("a/byteorder", b"big")];
    refused_file(archive(&big, stored), ErrorKind::Unsupported, &["big-endian"]);

    // Something before the archive is none of ours, nor a note that is no note.
    let noted: [(&str, &[u8]); 3] =
        [("a/data.pkl", &pickle), ("a/data/0", &[1; 16]), ("a/secateur.json", b"[1]")];
    refused_file(archive(&noted, stored), input, &["secateur.json"]);

    // A bomb: by what it claims, and by what it does not claim.
    let records: [(&str, &[u8]); 2] = [("a/data.pkl", &pickle), ("a/data/0", &vec![0; 1 << 16])];
    let honest = archive(&records, CompressionMethod::Deflated);
    assert!(io::read_bytes(honest.clone()).is_ok());
    let size = (1u32 << 16).to_le_bytes();
    let claim = |claimed: u32| {
        let mut bytes = honest.clone();
        for at in 0..bytes.len() - 4 {
            if bytes[at..at + 4] == size {
                bytes[at..at + 4].copy_from_slice(&claimed.to_le_bytes());
            }
        }
        bytes
    };
    refused_file(claim(0xf000_0000), input, &["more than weights unpack to"]);
    refused_file(claim(1 << 8), input, &["data/0"]);

    // The second entry's place is the first one's.
    let mut overlapping = checkpoint(&pickle);
    let starts: Vec<usize> =
        (0..overlapping.len() - 4).filter(|&at| overlapping[at..].starts_with(b"PK\x01\x02")).collect();
    let place = starts[1] + 42;
    overlapping[place..place + 4].copy_from_slice(&[0; 4]);
    refused_file(overlapping, input, &[]);
}

#[test]
fn the_layout_of_2016_and_plain_pickles_are_told() {
    let mut tar = vec![0; 1024];
    tar[..8].copy_from_slice(b"sys_info");
    tar[257..262].copy_from_slice(b"ustar");
    refused_file(tar, ErrorKind::Input, &["2016", "torch.save"]);
    refused_file(b"\x80\x04N.".to_vec(), ErrorKind::Input, &["pickle", "torch.save"]);
}
