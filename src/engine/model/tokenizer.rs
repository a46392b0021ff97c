//! CLIP's tokenizer: a text to the numbers that the text encoder reads.
#![forbid(unsafe_code)]

use crate::engine::model::config::Config;
use crate::engine::model::source::{TokenizerFiles, Vocabulary};
use crate::error::{Doing, Error, Result};
use crate::files;
use crate::text::{Text, text};
use serde_json::{Value, json};
use std::path::Path;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

/// The tokens around every text.
const BEGIN: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

/// How CLIP cuts a text into words (openai/CLIP, `simple_tokenizer.py`).
const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// Zero-width space, word joiner, byte order mark, soft hyphen. Joiners of letters stay: they change what is seen.
const UNSEEN: &str = "[\u{200b}\u{2060}\u{feff}\u{ad}]";

/// Byte-pair encoding, and the tokens around a text.
pub struct Tokenizer {
    pairs: tokenizers::Tokenizer,
    begin: u32,
    end: u32,
    pad: u32,
    /// Tokens of every text, begin, end and padding included; 77 for SD 1.
    pub max_tokens: usize,
}

/// A text as tokens.
#[derive(Debug, PartialEq, Eq)]
pub struct Tokens {
    /// `max_tokens` of them.
    pub ids: Vec<u32>,
    /// Place of the first token that ends a text.
    pub end: usize,
    /// The end of the text that did not fit; empty if all did.
    pub cut: String,
}

impl Tokenizer {
    /// For a text encoder that has embeddings for `positions` tokens of a text, out of `vocabulary` different ones;
    /// texts are padded with `pad_token` unless the files name another one.
    pub fn new(files: &TokenizerFiles, pad_token: &str, positions: usize, vocabulary: usize) -> Result<Self> {
        let config = &files.config;
        let mut pairs = byte_pair_encoding(files)?;
        let mut special = |key: &str, default: &str| {
            let token = match config.value(key) {
                Value::Object(token) => token.get("content").and_then(Value::as_str).unwrap_or(default),
                value => value.as_str().unwrap_or(default),
            };
            // Special tokens count wherever they stand in a text; in SD 2 even "!" is one, the padding.
            let added = pairs.add_special_tokens([AddedToken::from(token, true)]);
            added.map_err(|error| config.error(Text::verbatim(format!("{key}: {error}"))))?;
            pairs
                .token_to_id(token)
                .ok_or_else(|| config.error(text!("{token} is not in vocab.json", token = format!("{key} {token}"))))
        };
        let begin = special("bos_token", BEGIN)?;
        let end = special("eos_token", END)?;
        let pad = special("pad_token", pad_token)?;
        // transformers writes 10^30 where there is no limit.
        let max_tokens = config.value("model_max_length").as_u64().map_or(positions, |n| positions.min(n as usize));
        if max_tokens < 3 {
            return Err(config.error(text!(
                "{key} is {value}, must be at least {min}",
                key = "model_max_length",
                value = max_tokens,
                min = 3
            )));
        }
        let known = pairs.get_vocab_size(true);
        if known > vocabulary {
            let reason = text!(
                "vocab.json has {tokens} tokens, the text encoder only {known}",
                tokens = known,
                known = vocabulary
            );
            return Err(config.error(reason));
        }
        Ok(Self { pairs, begin, end, pad, max_tokens })
    }

    /// How many tokens the text is, without those around it.
    pub fn count(&self, text: &str) -> Result<usize> {
        Ok(self.pairs_of(text)?.get_ids().len())
    }

    /// Begin, the text's tokens, end, padding; as many in all as the text encoder was trained on.
    pub fn tokenize(&self, text: &str) -> Result<Tokens> {
        let encoding = self.pairs_of(text)?;
        let room = self.max_tokens - 2;
        let cut_at = encoding.get_offsets().get(room).map(|offsets| offsets.0);
        let mut ids = vec![self.begin];
        ids.extend(encoding.get_ids().iter().take(room));
        ids.push(self.end);
        ids.resize(self.max_tokens, self.pad);
        let end = ids.iter().position(|&id| id == self.end).expect("one was put there");
        Ok(Tokens { ids, end, cut: cut_at.map(|at| text.chars().skip(at).collect()).unwrap_or_default() })
    }

    fn pairs_of(&self, text: &str) -> Result<tokenizers::Encoding> {
        self.pairs.encode_char_offsets(text, false).map_err(|error| {
            Error::Parameter(text!("the target text cannot be read: {error}", error = error.to_string()))
        })
    }
}

/// As in openai/CLIP: words in lower case, their UTF-8 bytes merged pair by pair.
fn byte_pair_encoding(files: &TokenizerFiles) -> Result<tokenizers::Tokenizer> {
    let wrong = |error: tokenizers::Error| {
        Error::model(&files.path, text!("the tokenizer cannot be read: {error}", error = error.to_string()))
    };
    let bpe = match &files.vocabulary {
        Vocabulary::Clip => {
            let (vocab, merges) = clip_vocabulary();
            BPE::builder().vocab_and_merges(vocab, merges)
        }
        Vocabulary::Files { vocab, merges } => {
            let (vocab, merges) = of_files(vocab, merges)?;
            BPE::builder().vocab_and_merges(vocab, merges)
        }
        Vocabulary::Json(file) => {
            let (vocab, merges) = of_json(&Config::read(file)?)?;
            BPE::builder().vocab_and_merges(vocab, merges)
        }
    };
    let bpe = bpe.unk_token(END.into()).end_of_word_suffix("</w>".into()).build().map_err(wrong)?;
    let mut tokenizer = tokenizers::Tokenizer::new(bpe);
    // The library has no constructor for a regular expression but through its serialized form.
    let spaces: Replace =
        serde_json::from_value(json!({ "type": "Replace", "pattern": { "Regex": r"\s+" }, "content": " " }))
            .map_err(|error| wrong(error.into()))?;
    // Signs that nobody sees; openai/CLIP mends texts with ftfy, and BERT's cleaning, which transformers uses without
    // that, takes them out.
    let unseen: Replace =
        serde_json::from_value(json!({ "type": "Replace", "pattern": { "Regex": UNSEEN }, "content": "" }))
            .map_err(|error| wrong(error.into()))?;
    let normalizers = vec![NFC.into(), unseen.into(), spaces.into(), Lowercase.into()];
    tokenizer.with_normalizer(Some(Sequence::new(normalizers))).map_err(wrong)?;
    let words = Split::new(SplitPattern::Regex(WORDS.into()), SplitDelimiterBehavior::Removed, true).map_err(wrong)?;
    let bytes = ByteLevel::default().add_prefix_space(false).use_regex(false);
    tokenizer.with_pre_tokenizer(Some(PreTokenizers::new(vec![words.into(), bytes.into()])));
    for (token, number) in &files.added {
        let added = tokenizer.add_tokens([AddedToken::from(token.as_str(), false)]).map_err(wrong)?;
        let known = tokenizer.token_to_id(token);
        if known != Some(*number) {
            let reason = text!(
                "added_tokens.json gives {token} the number {number}, but it would be {known}",
                token,
                number = *number as usize,
                known = format!("{known:?} ({added})")
            );
            return Err(Error::model(&files.path, reason));
        }
    }
    Ok(tokenizer)
}

/// The vocabulary of CLIP, the same in every Stable Diffusion model: the 256 bytes as characters, the same at the end
/// of a word, what the merges make, begin and end (openai/CLIP, `simple_tokenizer.py`).
fn clip_vocabulary() -> (Vocab, Merges) {
    static MERGES: &[u8] = include_bytes!("../../../models/clip-vocabulary/merges.txt.gz");
    let mut text = String::new();
    let mut unpacked = flate2::read::GzDecoder::new(MERGES);
    std::io::Read::read_to_string(&mut unpacked, &mut text).expect("it was packed well");
    let merges: Merges =
        text.lines().map(|line| line.split_once(' ').expect("two parts")).map(|(a, b)| (a.into(), b.into())).collect();
    let bytes = byte_characters();
    let tokens = bytes
        .iter()
        .map(char::to_string)
        .chain(bytes.iter().map(|byte| format!("{byte}</w>")))
        .chain(merges.iter().map(|(first, second)| format!("{first}{second}")))
        .chain([BEGIN.to_owned(), END.to_owned()]);
    (tokens.zip(0..).collect(), merges)
}

/// A character that can be printed for each byte, in CLIP's order: those that are printable stand for themselves and
/// come first.
fn byte_characters() -> Vec<char> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let others = (0..=u8::MAX).filter(|byte| !printable(byte)).count() as u32;
    let stand_ins = (0..others).map(|i| char::from_u32(256 + i).expect("a character"));
    (0..=u8::MAX).filter(printable).map(char::from).chain(stand_ins).collect()
}

/// Tokens and merges of a `vocab.json` and a `merges.txt`.
fn of_files(vocab: &Path, merges: &Path) -> Result<(Vocab, Merges)> {
    let config = Config::read(vocab)?;
    let tokens = tokens_of(config.content()).ok_or_else(|| config.error(NO_PAIRS))?;
    let text = String::from_utf8(files::read(merges).map_err(Error::file(Doing::Read, merges))?);
    let text = text.map_err(|_| Error::model(merges, NO_PAIRS))?;
    let pair = |line: &str| {
        let (first, second) = line.split_once(' ').filter(|(_, second)| !second.contains(' '))?;
        Some((first.to_owned(), second.to_owned()))
    };
    let pairs = text.lines().filter(|line| !line.starts_with("#version")).map(pair).collect::<Option<Merges>>();
    Ok((tokens, pairs.ok_or_else(|| Error::model(merges, NO_PAIRS))?))
}

/// What is wrong with a file that holds something else.
const NO_PAIRS: Text = text!("has no vocabulary and merges of byte-pair encoding, as CLIP's has");

/// Numbers by token.
fn tokens_of(vocab: &Value) -> Option<Vocab> {
    let token = |(token, number): (&String, &Value)| Some((token.clone(), u32::try_from(number.as_u64()?).ok()?));
    vocab.as_object()?.iter().map(token).collect()
}

/// Tokens and merges of a `tokenizer.json`.
fn of_json(config: &Config) -> Result<(Vocab, Merges)> {
    let model = config.value("model");
    // Pairs are lists of two in newer files, and lines in older ones.
    let pair = |pair: &Value| match pair {
        Value::String(line) => line.split_once(' ').map(|(first, second)| (first.to_owned(), second.to_owned())),
        pair => Some((pair[0].as_str()?.to_owned(), pair[1].as_str()?.to_owned())),
    };
    let merges = model["merges"].as_array().and_then(|merges| merges.iter().map(pair).collect::<Option<Merges>>());
    match (tokens_of(&model["vocab"]), merges) {
        (Some(vocab), Some(merges)) => Ok((vocab, merges)),
        _ => Err(config.error(NO_PAIRS)),
    }
}
