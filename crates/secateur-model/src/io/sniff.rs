//! What a file that does not read looks like, for the message.

/// What kind of file the bytes look like, with what to do about it.
pub(super) fn looks_like(bytes: &[u8]) -> Option<&'static str> {
    let magic: [(&[u8], usize, &str); 10] = [
        (b"BZh", 0, "a bzip2 file; unpack it first (`bunzip2`)"),
        (b"\xfd7zXZ\0", 0, "an xz file; unpack it first (`xz -d`)"),
        (b"ustar", 257, "a tar archive; unpack it first (`tar -x`)"),
        (b"\x89HDF\r\n\x1a\n", 0, "an HDF5 file (Keras?); export the model to ONNX"),
        (b"\x93NUMPY", 0, "a NumPy array, which is data and no model"),
        (b"TFL3", 4, "a TensorFlow Lite model; convert it to ONNX"),
        (b"ORTM", 4, "a model in ONNX Runtime's own format; take the ONNX file it was made from"),
        (b"GGUF", 0, "a GGUF file; export the model to ONNX"),
        (b"%PDF", 0, "a PDF document"),
        (b"version https://git-lfs", 0, "a Git LFS pointer; fetch the file itself (`git lfs pull`)"),
    ];
    if bytes.is_empty() {
        return Some("an empty file");
    }
    // PyTorch's first layout is a tar archive of these.
    let of_torch = ["sys_info\0", "pickle\0", "tensors\0", "storages\0"];
    if bytes.get(257..).is_some_and(|b| b.starts_with(b"ustar"))
        && of_torch.iter().any(|name| bytes.starts_with(name.as_bytes()))
    {
        return Some(
            "a PyTorch checkpoint of 2016, a tar archive; load it in PyTorch and `torch.save` it again",
        );
    }
    if let Some(&(.., what)) =
        magic.iter().find(|(magic, at, _)| bytes.get(*at..).is_some_and(|b| b.starts_with(magic)))
    {
        return Some(what);
    }
    let start = &bytes[..bytes.len().min(1 << 12)];
    // A pickle of protocol 2 or later.
    if bytes[0] == 0x80 && bytes.get(1).is_some_and(|&protocol| (2..=5).contains(&protocol)) {
        return Some("a Python pickle that is no PyTorch checkpoint; store the weights with `torch.save`");
    }
    // A character cut off at the end of the sample is no reason to doubt.
    let unicode = std::str::from_utf8(start).map_or_else(|e| e.error_len().is_none(), |_| true);
    let text = unicode && start.iter().all(|&b| b >= 0x20 || b"\t\n\r\x0c".contains(&b));
    text.then_some("a text file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_given_by_mistake_are_told_apart() {
        let mut tar = vec![0; 512];
        tar[257..262].copy_from_slice(b"ustar");
        let mut torch = tar.clone();
        torch[..8].copy_from_slice(b"sys_info");
        let cases: [(&[u8], &str); 5] = [
            (b"", "empty"),
            (b"\x80\x02\x8a\x0a", "pickle"),
            (b"import torch\n", "text"),
            (&tar, "unpack"),
            (&torch, "PyTorch"),
        ];
        for (bytes, word) in cases {
            let what = looks_like(bytes).unwrap_or_else(|| panic!("nothing for {word}"));
            assert!(what.contains(word), "{what}");
        }
        assert_eq!(looks_like(&[8, 10, 18, 3, b'a', b'b', b'c']), None);
    }
}
