//! Other runtimes: each a Python child process that times itself on request.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::rc::Rc;
use std::str::FromStr;

use secateur_model::{Error, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::record::Loaded;
use super::stage::{LEAST_TURN, MOST_RUNS, Runner};

/// The program that the child processes run.
const SCRIPT: &str = include_str!("peer.py");
/// The environment variable that names the Python to use.
const PYTHON: &str = "SECATEUR_PYTHON";

/// A runtime to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name in Python and on the command line.
    pub name: &'static str,
    /// Its name for people.
    pub title: &'static str,
}

/// The runtimes that `peer.py` knows.
pub const PEERS: [Peer; 2] =
    [Peer { name: "onnxruntime", title: "ONNX Runtime" }, Peer { name: "openvino", title: "OpenVINO" }];

impl FromStr for Peer {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        PEERS.into_iter().find(|peer| peer.name == text).ok_or_else(|| {
            let known: Vec<&str> = PEERS.iter().map(|peer| peer.name).collect();
            Error::usage(format!("no runtime `{text}` to compare with; known are {}", known.join(", ")))
        })
    }
}

/// A running peer.
pub(super) struct Process {
    child: Child,
    /// Dropped to end the child.
    asks: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    next_key: u64,
    /// The version of the runtime.
    pub(super) version: String,
}

impl Process {
    /// Starts a peer.
    ///
    /// # Errors
    /// Where there is no Python, or it has no such runtime.
    pub(super) fn start(peer: Peer) -> Result<Self> {
        let python = std::env::var_os(PYTHON);
        let python = python.unwrap_or_else(|| if cfg!(windows) { "python" } else { "python3" }.into());
        let started = Command::new(&python)
            .args(["-c", SCRIPT, peer.name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let place = format!("`{}` (from {PYTHON}, or the one on the path)", Path::new(&python).display());
        let hint = format!("set {PYTHON} to a Python with the package {}", peer.name);
        let mut child = started.map_err(|e| Error::usage(format!("{place} does not start: {e}; {hint}")))?;
        let (Some(asks), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::internal("a child process without pipes"));
        };
        let version = String::new();
        let answers = BufReader::new(answers);
        let mut process = Process { child, asks: Some(asks), answers, next_key: 0, version };
        #[derive(Deserialize)]
        struct Hello {
            version: String,
        }
        let hello = process.answer::<Hello>();
        process.version = hello.map_err(|e| Error::new(e.kind(), format!("{e}; {hint}")).at(place))?.version;
        Ok(process)
    }

    fn ask<T: DeserializeOwned>(&mut self, question: &serde_json::Value) -> Result<T> {
        let asks = self.asks.as_mut().ok_or_else(|| Error::internal("the process has ended"))?;
        // Where the process has ended the missing answer says so.
        let _ = writeln!(asks, "{question}").and_then(|()| asks.flush());
        self.answer()
    }

    fn answer<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        let read = self.answers.read_line(&mut line);
        if !matches!(read, Ok(bytes) if bytes > 0) {
            return Err(Error::unsupported("the process ended"));
        }
        let value: serde_json::Value =
            serde_json::from_str(&line).map_err(|e| Error::internal(format!("an answer: {e}")))?;
        if let Some(error) = value["error"].as_str() {
            return Err(Error::unsupported(error.lines().next().unwrap_or_default()));
        }
        serde_json::from_value(value).map_err(|e| Error::internal(format!("an answer: {e}")))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The child ends when there is nothing more to read; one that hangs is not waited for.
        self.asks = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a peer needs to run a model.
pub(super) struct Given<'a> {
    pub(super) file: &'a Path,
    pub(super) threads: usize,
    /// Inputs as npy files, by name.
    pub(super) inputs: &'a BTreeMap<String, PathBuf>,
    /// Extents of the named dynamic axes.
    pub(super) dims: &'a BTreeMap<String, usize>,
}

/// A model loaded in a peer.
pub(super) struct PeerRunner {
    process: Rc<RefCell<Process>>,
    key: u64,
}

impl PeerRunner {
    /// Loads a model and runs it once.
    ///
    /// # Errors
    /// Where the peer cannot.
    pub(super) fn load(process: &Rc<RefCell<Process>>, given: &Given<'_>) -> Result<(Self, Loaded)> {
        let mut peer = process.borrow_mut();
        let key = peer.next_key;
        peer.next_key += 1;
        let file = given.file.to_str().ok_or_else(|| {
            Error::usage("the path is not UTF-8, which the other runtimes are told in").at_file(given.file)
        })?;
        let loaded = peer.ask(&json!({
            "do": "load", "key": key, "file": file, "threads": given.threads,
            "inputs": given.inputs, "dims": given.dims,
        }))?;
        Ok((PeerRunner { process: process.clone(), key }, loaded))
    }
}

impl Runner for PeerRunner {
    fn turn(&mut self, warm_up: bool) -> Result<Vec<f64>> {
        #[derive(Deserialize)]
        struct Turn {
            times: Vec<f64>,
        }
        let turn: Turn = self.process.borrow_mut().ask(&json!({
            "do": "turn", "key": self.key, "warm_up": warm_up, "least": LEAST_TURN.as_secs_f64(), "most": MOST_RUNS,
        }))?;
        Ok(turn.times)
    }
}

impl Drop for PeerRunner {
    fn drop(&mut self) {
        // A process that has ended holds nothing any more.
        let _ = self.process.borrow_mut().ask::<serde_json::Value>(&json!({ "do": "drop", "key": self.key }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_known_by_the_names_of_the_script() {
        for peer in PEERS {
            assert_eq!(peer.name.parse::<Peer>().unwrap(), peer);
            assert!(SCRIPT.contains(&format!("def {}():", peer.name)));
        }
        let message = "tensorrt".parse::<Peer>().unwrap_err().to_string();
        assert!(message.contains("known are onnxruntime, openvino"), "{message}");
    }
}
