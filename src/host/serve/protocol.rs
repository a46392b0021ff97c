//! The messages of `serve`: what a host can ask for, and how messages are read and written. What
//! `imagic-edit serve --help` prints describes them.
#![forbid(unsafe_code)]

use crate::error::{self, Doing, Error};
use crate::host::pixel_layout::PixelFormat;
use crate::image::MAX_AREA;
use crate::job::start_thread;
use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::io::{BufRead, BufReader, Read, Write, stdin, stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Version of the protocol. It grows with every change that a host would notice.
pub const PROTOCOL: u32 = 6;

/// Bytes of a message's line; a prompt of a thousand words is a hundredth of it.
const MAX_LINE: u64 = 1 << 20;

/// Bytes of the largest picture, as 16-bit RGBA.
const MAX_PIXELS: u64 = MAX_AREA * 8;

/// Bytes of a message that are written at once.
const PART: usize = 64 << 10;

/// A host that reads nothing for so long after it has closed its end of the input will not read any more.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a host asks for.
#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    Edit(EditOrder),
    Estimate(EditOrder),
    Stop {
        job: u64,
    },
    Models,
    Model {
        name: String,
    },
    /// What is to be said of a target text for a model.
    Text {
        text: String,
        model: String,
    },
    Remember {
        params: Map<String, Value>,
    },
}

#[derive(Deserialize)]
pub struct EditOrder {
    pub job: u64,
    pub params: Map<String, Value>,
    #[serde(default)]
    pub document: String,
    #[serde(default)]
    pub previews: u32,
    /// Longest side of a result that is only looked at.
    pub side: Option<u32>,
    // Of the pixels that follow; all three are left out when the picture that came last is meant.
    pub width: Option<u32>,
    pub height: Option<u32>,
    pub format: Option<PixelFormat>,
    /// Whether how much of each pixel is selected follows them, a byte each.
    #[serde(default)]
    pub selection: bool,
}

/// What came on standard input: a JSON object and the bytes that followed it, or why what follows cannot be told apart.
pub type Message = Result<(Map<String, Value>, Vec<u8>), String>;

/// Messages to the host, in order. They are written on a thread of their own, so that a host that does not read stops
/// nothing but what it is told.
pub struct Outbox {
    messages: Sender<Vec<u8>>,
    /// Bytes that the host has taken.
    taken: Arc<AtomicUsize>,
    /// Comes when all is written, or why it cannot be.
    end: Receiver<error::Result<()>>,
}

impl Outbox {
    /// Starts the thread.
    pub fn open() -> error::Result<Self> {
        let (messages, waiting) = unbounded::<Vec<u8>>();
        let (ended, end) = bounded(1);
        let taken = Arc::new(AtomicUsize::new(0));
        let count = taken.clone();
        let write = move || {
            let mut written = Ok(());
            for message in waiting {
                for part in message.chunks(PART) {
                    let mut out = stdout().lock();
                    // Once it failed nobody is there any more to hear the rest.
                    written = written.and_then(|()| out.write_all(part)).and_then(|()| out.flush());
                    count.fetch_add(part.len(), Ordering::Relaxed);
                }
            }
            // Nobody waits for it where the host has been given up.
            let _ = ended.send(written.map_err(Error::file(Doing::Write, "standard output".as_ref())));
        };
        start_thread("imagic-answers", write).map(|_| Self { messages, taken, end })
    }

    /// One message, and the pixels that follow it.
    pub fn say(&self, message: &Value, pixels: &[u8]) {
        let message = [format!("{message}\n").as_bytes(), pixels].concat();
        // The thread lives as long as this.
        let _ = self.messages.send(message);
    }

    /// Whether the host has still to read what was said before.
    pub fn is_behind(&self) -> bool {
        !self.messages.is_empty()
    }

    /// Waits until the host has read everything, or reads no more.
    pub fn close(self) -> error::Result<()> {
        let Self { messages, taken, end } = self;
        drop(messages);
        loop {
            let before = taken.load(Ordering::Relaxed);
            match end.recv_timeout(PATIENCE) {
                Ok(written) => return written,
                Err(_) if taken.load(Ordering::Relaxed) > before => {}
                // It ends with the process.
                Err(_) => return Ok(()),
            }
        }
    }
}

/// A thread that reads messages while an edit runs; the channel closes with standard input.
pub fn read_in_background() -> error::Result<Receiver<Message>> {
    // One at a time: pictures are large.
    let (sender, inbox) = bounded(1);
    let read = move || {
        let mut input = BufReader::new(stdin());
        while let Some(message) = next_message(&mut input) {
            let is_last = message.is_err();
            if sender.send(message).is_err() || is_last {
                break;
            }
        }
    };
    start_thread("imagic-messages", read).map(|_| inbox)
}

/// `None` at the end, also where it comes amid a message: whoever wrote that is gone.
pub fn next_message(input: &mut impl BufRead) -> Option<Message> {
    let mut line = Vec::new();
    input.take(MAX_LINE).read_until(b'\n', &mut line).ok()?;
    if line.pop_if(|last| *last == b'\n').is_none() {
        let too_long = line.len() as u64 == MAX_LINE;
        return too_long.then(|| Err(format!("a line is longer than {MAX_LINE} bytes")));
    }
    let mut request: Map<String, Value> = match serde_json::from_slice(&line) {
        Ok(request) => request,
        Err(error) => return Some(Err(format!("a line is not a JSON object: {error}"))),
    };
    let given = request.remove("bytes").unwrap_or(0.into());
    let Some(bytes) = given.as_u64().filter(|&bytes| bytes <= MAX_PIXELS) else {
        return Some(Err(format!("bytes is {given}, must be 0 to {MAX_PIXELS}")));
    };
    let mut pixels = Vec::new();
    let read = input.take(bytes).read_to_end(&mut pixels).ok()?;
    (read as u64 == bytes).then_some(Ok((request, pixels)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart_and_the_rest_of_one_is_the_end() {
        let next = |input: &mut &[u8]| match next_message(input) {
            Some(Ok((request, pixels))) => format!("{} {pixels:?}", Value::Object(request)),
            Some(Err(reason)) => reason,
            None => "the end".to_owned(),
        };
        let mut input = &b"{\"do\":\"a\",\"bytes\":3}\n12\n{\"do\":\"b\"}\n{\"do\":\"c\",\"bytes\":9}\n12"[..];
        assert_eq!(next(&mut input), "{\"do\":\"a\"} [49, 50, 10]");
        assert_eq!(next(&mut input), "{\"do\":\"b\"} []");
        assert_eq!(next(&mut input), "the end");
        for (text, reason) in [
            ("pixels\n", "a line is not a JSON object"),
            ("[1]\n", "a line is not a JSON object"),
            ("{\"bytes\":-1}\n", "bytes is -1, must be 0 to"),
            ("{\"bytes\":99999999999}\n", "bytes is 99999999999, must be 0 to"),
            ("{\"do\":", "the end"),
            ("", "the end"),
        ] {
            let found = next(&mut text.as_bytes());
            assert!(found.starts_with(reason), "{text}: {found}");
        }
        let long = vec![b' '; MAX_LINE as usize + 1];
        assert!(next(&mut long.as_slice()).starts_with("a line is longer than"));
    }
}
