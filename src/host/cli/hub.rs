//! The only code that opens connections, and only when the user asks for a download: the pages and files of models on
//! Hugging Face, or on another server of the same kind. Knows nothing of what becomes of them.
#![forbid(unsafe_code)]

use super::outcome::said;
use crate::error::{Doing, Error, Result};
use crate::files;
use crate::host::other_programs::hugging_face_home;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};
use ureq::config::RedirectAuthHeaders;
use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body};

/// Where models come from unless the environment's HF_ENDPOINT says otherwise.
const ENDPOINT: &str = "https://huggingface.co";

/// Time without a byte after which a server counts as silent, unless IMAGIC_DOWNLOAD_SECONDS says otherwise.
const PATIENCE: Duration = Duration::from_secs(60);

/// A file that comes slower is given up: it would take weeks.
const LEAST_BYTES_A_SECOND: u64 = 1000;

/// Attempts in a row that bring nothing worth it.
const ATTEMPTS: u32 = 5;

/// Bytes of the largest page that is read; that of a model with ten thousand files has some.
const MOST_PAGE: u64 = 32 << 20;

/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;

/// A server with models, and who asks it.
pub struct Hub {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
    patience: Duration,
}

/// What the page of a model says.
pub struct Page {
    /// `owner/name`.
    pub model: String,
    /// The version that counts at present.
    pub revision: String,
    pub licence: Option<String>,
    pub files: Vec<Remote>,
}

/// A file on the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Path in the model's folder: names only, none of which leads out of it.
    pub name: String,
    pub bytes: u64,
    /// As the server announces it; small files have none.
    pub sha256: Option<String>,
}

/// Why an attempt failed.
enum Trouble {
    /// Another one would end in the same way.
    Final(Error),
    /// Another one may go on, after some time if the server says so.
    Passing(String, Option<Duration>),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl Hub {
    /// With what Hugging Face's own programs take from the environment: HF_ENDPOINT, HF_TOKEN or the file of the token,
    /// HTTPS_PROXY, NO_PROXY.
    pub fn from_environment() -> Result<Self> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let text = |name: &str| variable(name).map(|value| value.to_string_lossy().trim().to_owned());
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned()).trim_end_matches('/').to_owned();
        let token_file = variable("HF_TOKEN_PATH").map(PathBuf::from);
        let token_file = token_file.or_else(|| Some(hugging_face_home(variable, dirs::home_dir())?.join("token")));
        let kept = || Some(files::read_text(&token_file?).ok()?.trim().to_owned());
        let token = text("HF_TOKEN").or_else(kept).filter(|token| !token.is_empty());
        let patience = match text("IMAGIC_DOWNLOAD_SECONDS") {
            None => PATIENCE,
            Some(given) => given
                .parse()
                .ok()
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
                .filter(|patience| !patience.is_zero())
                .ok_or_else(|| said(format!("IMAGIC_DOWNLOAD_SECONDS is {given}, must be a number of seconds")))?,
        };
        let config = Agent::config_builder()
            .user_agent(concat!("imagic-edit/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            // Whoever is asked by TLS must not send on to somebody who is not.
            .https_only(endpoint.starts_with("https:"))
            // Files lie on other servers, whom the token is no business of.
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(patience))
            .timeout_recv_response(Some(patience))
            .timeout_per_read(Some(patience))
            .build();
        Ok(Self { agent: config.into(), endpoint, token, patience })
    }

    /// Where a model's page is.
    pub fn address(&self, model: &str) -> String {
        format!("{}/{model}", self.endpoint)
    }

    /// The part of an address of this server behind it.
    pub fn without_endpoint<'a>(&self, address: &'a str) -> &'a str {
        let rest = address.strip_prefix(&self.endpoint).or_else(|| address.strip_prefix(ENDPOINT));
        rest.unwrap_or(address).trim_start_matches('/')
    }

    /// The page of the model `owner/name`.
    pub fn page(&self, model: &str) -> Result<Page> {
        let url = format!("{}/api/models/{model}?blobs=true", self.endpoint);
        let text = self.again_and_again(|_| {
            let response = self.get(&url, 0)?;
            let mut text = Vec::new();
            let read = response.into_body().into_reader().take(MOST_PAGE).read_to_end(&mut text);
            read.map(|_| text).map_err(|error| Trouble::Passing(error.to_string(), None))
        })?;
        let page: Value = serde_json::from_slice(&text).map_err(|_| {
            let is_web_page = text.trim_ascii_start().starts_with(b"<");
            let what = if is_web_page { "a web page" } else { "something else" };
            said(format!(
                "{} answers with {what} where the list of the model's files should be; is HF_ENDPOINT right, and does \
                 a login or a proxy stand between?",
                self.endpoint
            ))
        })?;
        let card = &page["cardData"];
        let licence = match &card["license"] {
            Value::String(licence) if licence == "other" => card["license_name"].as_str().or(Some("other")),
            Value::Array(licences) => licences.first().and_then(Value::as_str),
            licence => licence.as_str(),
        };
        let files = page["siblings"].as_array().into_iter().flatten().filter_map(Remote::of).collect();
        let revision = page["sha"].as_str().unwrap_or("main").to_owned();
        Ok(Page { model: model.to_owned(), revision, licence: licence.map(str::to_owned), files })
    }

    /// Brings the file `remote` of `page` to `to`, where a part of it may be from another time; `tell` hears how many
    /// bytes there are. Size and SHA-256 are checked, and the SHA-256 is returned. What is there when the server fails
    /// stays for another time; what turns out to be another file goes.
    pub fn fetch(&self, page: &Page, remote: &Remote, to: &Path, tell: &mut dyn FnMut(u64)) -> Result<String> {
        let name: Vec<String> = remote.name.split('/').map(escaped).collect();
        let url = format!("{}/{}/resolve/{}/{}", self.endpoint, page.model, page.revision, name.join("/"));
        let mut part = Part::open(to, remote)?;
        let fetched = self.again_and_again(|most| {
            let received = self.receive(&url, remote, &mut part, tell);
            *most = part.bytes.max(*most);
            received
        });
        fetched.inspect_err(|_| part.remove_if_useless())?;
        part.finish(remote)
    }

    /// What is missing of `remote`.
    fn receive(
        &self,
        url: &str,
        remote: &Remote,
        part: &mut Part,
        tell: &mut dyn FnMut(u64),
    ) -> std::result::Result<(), Trouble> {
        if part.bytes == remote.bytes {
            return Ok(());
        }
        let response = self.get(url, part.bytes)?;
        let header = |name| header(response.headers(), name);
        if header("content-type").is_some_and(|kind| kind.starts_with("text/html")) {
            return Err(Trouble::Final(said(format!(
                "the server sends a web page in place of {}; does a login or a proxy stand between?",
                remote.name
            ))));
        }
        let is_rest = response.status() == 206;
        // bytes 100-199/200
        let range = header("content-range").and_then(|range| range.strip_prefix("bytes ")).unwrap_or_default();
        if is_rest && !range.starts_with(&format!("{}-", part.bytes)) {
            let asked = part.bytes;
            return Err(Trouble::Final(said(format!(
                "the server was asked for the rest from {asked} on and sends {range}"
            ))));
        }
        let announced = if is_rest { range.rsplit('/').next() } else { header("content-length") };
        let announced = announced.and_then(|bytes| bytes.parse::<u64>().ok());
        if let Some(announced) = announced.filter(|&announced| announced != remote.bytes) {
            return Err(Trouble::Final(said(format!(
                "{} has {announced} bytes by now, {} were announced; try again",
                remote.name, remote.bytes
            ))));
        }
        if !is_rest {
            part.restart()?;
        }
        let mut body = response.into_body().into_reader();
        let (mut chunk, mut since, mut slow) = (vec![0; CHUNK], Instant::now(), 0);
        loop {
            let read = body.read(&mut chunk).map_err(|error| Trouble::Passing(error.to_string(), None))?;
            if read == 0 {
                break;
            }
            if part.bytes + read as u64 > remote.bytes {
                part.useless = true;
                let Remote { name, bytes, .. } = remote;
                return Err(Trouble::Final(said(format!(
                    "{name} has more than the {bytes} bytes that were announced"
                ))));
            }
            part.add(&chunk[..read])?;
            tell(part.bytes);
            slow += read as u64;
            if since.elapsed() >= self.patience {
                if (slow as f64) < LEAST_BYTES_A_SECOND as f64 * since.elapsed().as_secs_f64() {
                    return Err(Trouble::Final(said(format!(
                        "the server sends less than {LEAST_BYTES_A_SECOND} bytes a second; what came is kept, the same \
                         command goes on from there"
                    ))));
                }
                (since, slow) = (Instant::now(), 0);
            }
        }
        match part.bytes == remote.bytes {
            true => Ok(()),
            false => Err(Trouble::Passing("the connection was cut".to_owned(), None)),
        }
    }

    /// `attempt` as long as one may bring more than those before; it says how far it has come.
    fn again_and_again<T>(&self, mut attempt: impl FnMut(&mut u64) -> std::result::Result<T, Trouble>) -> Result<T> {
        let (mut most, mut vain) = (0, 0);
        loop {
            let (before, began) = (most, Instant::now());
            let (reason, wait) = match attempt(&mut most) {
                Ok(done) => return Ok(done),
                Err(Trouble::Final(error)) => return Err(error),
                Err(Trouble::Passing(reason, wait)) => (reason, wait),
            };
            // Neither is one of use that brings a few bytes and then fails.
            let least = LEAST_BYTES_A_SECOND as f64 * began.elapsed().as_secs_f64();
            vain = if (most - before) as f64 > least { 0 } else { vain + 1 };
            let longest = 2 * self.patience;
            if let Some(wait) = wait.filter(|&wait| wait > longest) {
                let seconds = wait.as_secs();
                return Err(said(format!("{reason}; it asks to be left alone for {seconds} seconds, try again then")));
            }
            if vain >= ATTEMPTS {
                return Err(said(format!(
                    "{reason}, {ATTEMPTS} times in a row; what came is kept, the same command goes on from there"
                )));
            }
            // A second, two, four, eight.
            std::thread::sleep(wait.unwrap_or(self.patience / 60 * 2_u32.pow(vain.saturating_sub(1))));
        }
    }

    fn get(&self, url: &str, from: u64) -> std::result::Result<Response<Body>, Trouble> {
        let mut request = self.agent.get(url);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header("range", format!("bytes={from}-"));
        }
        let response = request.call().map_err(|error| self.no_answer(error))?;
        let status = response.status().as_u16();
        let header = |name| header(response.headers(), name).unwrap_or_default().to_owned();
        let server = &self.endpoint;
        let reason = match (status, header("x-error-code").as_str()) {
            (200 | 206, _) => return Ok(response),
            (404, "EntryNotFound") => format!("{url} is not there"),
            (404, _) | (401, "RepoNotFound") => {
                format!("{server} has no such model, or keeps it to itself; look for its name there")
            }
            (401 | 403, _) if self.token.is_some() => format!(
                "{server} does not give this model to your token; accept its licence on its page, and see that the \
                 token may read"
            ),
            (401 | 403, _) => format!(
                "{server} gives this model only to who has an account; accept its licence on its page, make a token \
                 there and set HF_TOKEN"
            ),
            (416, _) => "the server has another file by now; remove what came of it and try again".to_owned(),
            (408 | 429 | 500..=599, _) => {
                let wait = header("retry-after").parse().ok().map(Duration::from_secs);
                return Err(Trouble::Passing(format!("{server} is busy (status {status})"), wait));
            }
            _ => format!("{server} answers with status {status}"),
        };
        Err(Trouble::Final(said(reason)))
    }

    fn no_answer(&self, error: ureq::Error) -> Trouble {
        let server = &self.endpoint;
        match error {
            ureq::Error::BadUri(_) | ureq::Error::RequireHttpsOnly(_) | ureq::Error::InvalidProxyUrl => {
                Trouble::Final(said(format!("{server} cannot be asked: {error}")))
            }
            ureq::Error::TooManyRedirects | ureq::Error::RedirectFailed | ureq::Error::Tls(_) => {
                Trouble::Final(said(format!("{server} is not what it should be: {error}")))
            }
            error => Trouble::Passing(format!("{server} cannot be reached: {error}"), None),
        }
    }
}

impl Remote {
    /// Of the list of a model's files; `None` for what is no plain file in its folder.
    fn of(row: &Value) -> Option<Self> {
        let name = row["rfilename"].as_str().filter(|name| is_inside(name))?;
        let lfs = &row["lfs"];
        let bytes = lfs["size"].as_u64().or(row["size"].as_u64())?;
        let sha256 = lfs["sha256"].as_str().or(lfs["oid"].as_str()).map(str::to_lowercase);
        Some(Self { name: name.to_owned(), bytes, sha256: sha256.filter(|sha256| sha256.len() == 64) })
    }
}

/// What has come of a file.
struct Part {
    path: PathBuf,
    file: File,
    bytes: u64,
    hash: Sha256,
    /// Nothing can be made of it.
    useless: bool,
}

impl Part {
    /// With what is at `path` already.
    fn open(path: &Path, remote: &Remote) -> Result<Self> {
        let file = File::options().create(true).read(true).append(true).open(path);
        let file = file.map_err(Error::file(Doing::Write, path))?;
        let mut part = Self { path: path.to_owned(), file, bytes: 0, hash: Sha256::new(), useless: false };
        let mut chunk = vec![0; CHUNK];
        loop {
            match part.file.read(&mut chunk).map_err(Error::file(Doing::Read, path))? {
                0 => break,
                read => {
                    part.hash.update(&chunk[..read]);
                    part.bytes += read as u64;
                }
            }
        }
        // Without a digest nobody could say that both ends belong together.
        if part.bytes > remote.bytes || remote.sha256.is_none() {
            part.restart()?;
        }
        Ok(part)
    }

    fn restart(&mut self) -> Result<()> {
        self.file.set_len(0).map_err(Error::file(Doing::Write, &self.path))?;
        (self.bytes, self.hash) = (0, Sha256::new());
        Ok(())
    }

    fn add(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::file(Doing::Write, &self.path))?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn remove_if_useless(&self) {
        if self.useless || self.bytes == 0 {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    /// Its SHA-256, which has to be that of `remote`.
    fn finish(mut self, remote: &Remote) -> Result<String> {
        let digest = format!("{:x}", std::mem::take(&mut self.hash).finalize());
        if let Some(wanted) = remote.sha256.as_ref().filter(|&wanted| *wanted != digest) {
            self.useless = true;
            self.remove_if_useless();
            return Err(said(format!(
                "{} came damaged: its SHA-256 is {digest}, must be {wanted}; it was removed, try again",
                remote.name
            )));
        }
        self.file.sync_all().map_err(Error::file(Doing::Write, &self.path))?;
        Ok(digest)
    }
}

/// Whether a path consists of names alone, on every system.
fn is_inside(name: &str) -> bool {
    let names_only = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    !name.is_empty() && names_only && !name.contains(['\\', ':', '\0'])
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// `name` as a part of an address.
fn escaped(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    name.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn no_name_leads_out_of_the_folder() {
        for name in ["a.safetensors", "unet/config.json", "a b/c..d"] {
            assert!(is_inside(name), "{name}");
        }
        for name in ["", "../a", "a/../../b", "/etc/passwd", "a\\..\\b", "C:a", "./a", "a\0b"] {
            assert!(!is_inside(name), "{name}");
            assert_eq!(Remote::of(&json!({ "rfilename": name, "size": 1 })), None);
        }
        assert_eq!(escaped("a b/\u{e4}"), "a%20b%2F%C3%A4");
    }
}
