//! The one error type of the library crates.

use std::fmt;

/// Short for a result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong in the large; decides the exit code of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The user asked for something without meaning (exit code 2).
    Usage,
    /// A file holds something invalid (exit code 2).
    Input,
    /// The request or file is valid but not supported (exit code 2).
    Unsupported,
    /// Reading or writing failed (exit code 1; 2 where a path leads to nothing or to something else).
    Io,
    /// A defect of secateur itself (exit code 1).
    Internal,
    /// A check that the user asked for does not hold (exit code 1).
    Failed,
}

impl ErrorKind {
    /// The exit code a command ends with: 2 for a user's mistake, 1 for a failure.
    pub fn exit_code(self) -> u8 {
        match self {
            ErrorKind::Usage | ErrorKind::Input | ErrorKind::Unsupported => 2,
            ErrorKind::Io | ErrorKind::Internal | ErrorKind::Failed => 1,
        }
    }
}

/// An error with its kind, what it is about (outermost first) and the sentence that explains it.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    /// From the innermost to the outermost: node, tensor, file.
    places: Vec<String>,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of the given kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error(Box::new(Inner { kind, places: Vec::new(), message: message.into(), source: None }))
    }

    /// The user asked for something without meaning.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, message)
    }

    /// A file holds something invalid.
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Input, message)
    }

    /// Valid, but not supported.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// A defect of secateur itself.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// Reading or writing `path` failed.
    pub fn io(path: impl AsRef<std::path::Path>, source: std::io::Error) -> Self {
        let mut error = Self::new(ErrorKind::Io, plain(&source));
        error.0.source = Some(Box::new(source));
        error.at_file(path)
    }

    /// The kind of the error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Adds the place the error is about, such as ``node `conv1` (Conv)``.
    #[must_use]
    pub fn at(mut self, place: impl Into<String>) -> Self {
        let place = place.into();
        // A place that is known already is named once, where it is outermost.
        self.0.places.retain(|known| *known != place);
        self.0.places.push(place);
        self
    }

    /// Adds the file the error is about.
    #[must_use]
    pub fn at_file(self, path: impl AsRef<std::path::Path>) -> Self {
        self.at(format!("file `{}`", path.as_ref().display()))
    }

    /// Adds the tensor the error is about.
    #[must_use]
    pub fn at_tensor(self, path: &str) -> Self {
        self.at(format!("tensor `{path}`"))
    }

    /// Adds the node the error is about.
    #[must_use]
    pub fn at_node(self, node: &crate::Node) -> Self {
        self.at(format!("node `{}` ({})", node.label(), node.op_type))
    }
}

/// What the system says, without its number and in words that say what is wrong with the path.
fn plain(error: &std::io::Error) -> String {
    use std::io::ErrorKind::{
        AlreadyExists, IsADirectory, NotADirectory, NotFound, PermissionDenied, StorageFull,
    };
    let said = match error.kind() {
        NotFound => "there is no such file or folder",
        AlreadyExists => "a file of that name is in the way",
        NotADirectory => "a part of the path is a file, not a folder",
        IsADirectory => "is a folder, not a file",
        PermissionDenied => "permission is denied",
        StorageFull => "no space is left on the device",
        _ => {
            let text = error.to_string();
            return text.split(" (os error").next().unwrap_or_default().to_string();
        }
    };
    said.to_string()
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for place in self.0.places.iter().rev() {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|s| &**s as _)
    }
}

/// Adds places to the error of a result.
pub trait ResultExt<T> {
    /// Adds a place, made only where there is an error.
    fn at<S: Into<String>>(self, place: impl FnOnce() -> S) -> Result<T>;
    /// Adds the file the error is about.
    fn at_file(self, path: impl AsRef<std::path::Path>) -> Result<T>;
    /// Adds the tensor the error is about.
    fn at_tensor(self, path: &str) -> Result<T>;
    /// Adds the node the error is about.
    fn at_node(self, node: &crate::Node) -> Result<T>;
}

impl<T> ResultExt<T> for Result<T> {
    fn at<S: Into<String>>(self, place: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| e.at(place()))
    }
    fn at_file(self, path: impl AsRef<std::path::Path>) -> Result<T> {
        self.map_err(|e| e.at_file(path))
    }
    fn at_tensor(self, path: &str) -> Result<T> {
        self.map_err(|e| e.at_tensor(path))
    }
    fn at_node(self, node: &crate::Node) -> Result<T> {
        self.map_err(|e| e.at_node(node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_named_once() {
        let error = Error::input("is damaged").at_file("x").at_tensor("w").at_file("x").at_file("x");
        assert_eq!(error.to_string(), "file `x`: tensor `w`: is damaged");
    }
}
