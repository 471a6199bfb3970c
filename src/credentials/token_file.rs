//! A provider that reads the token file of a worker's daemon.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use futures_util::future::LocalBoxFuture;
use log::{info, warn};
use serde_json::value::RawValue;
use thiserror::Error;
use tokio::time::timeout_at;

use super::{
    parse::{parse_members, parse_time},
    provider::{BoxError, CredentialProvider},
    runtime_credentials::RuntimeCredentials,
};
use crate::{
    blocking::BlockingPool,
    shared_work::{HANGS_AFTER, SharedWork},
    util::{chain, ignore_panic},
};

/// The reads of all token files: at most one of each path, so that a disk that hangs does not stop the other files.
static READS: LazyLock<SharedWork<PathBuf, FileContent>> = LazyLock::new(|| {
    // Not the runtime's pool: a disk that hangs must not keep the process alive.
    static THREADS: BlockingPool = BlockingPool::new("result-poster-file");
    SharedWork::new(&THREADS, 1)
});

/// The longest prefix of the file that is read. A token file is much shorter.
const MAX_SIZE: u64 = 1024 * 1024;

/// A provider that follows the file in which a daemon keeps its worker's runtime token.
///
/// The file contains a JSON object. Other fields are ignored:
///
/// | field | content |
/// |---|---|
/// | `workerId` | the worker id, as text or as a whole number; default: that of the fixed pair |
/// | `runtimeToken`, or else `runtimeJwt` | the token, as text |
/// | `runtimeTokenExpiresAt` | when the token expires: RFC 3339, or a Unix time in seconds or milliseconds; default: unknown |
///
/// - The file is read before each attempt, on a thread of its own, which never keeps the process alive. A new token or worker id is used from the
///   next attempt on, whether the daemon replaces the file or rewrites it in place.
/// - If the file is missing or malformed, or reading it takes longer than 5 s, the last valid content is used. The log
///   has one warning per outage. While a read hangs, no other of the same path is started.
/// - Of fields with the same name, the last counts. Whitespace around a text is removed. A field that is `null` or empty counts as missing, and so does a token that is
///   not text.
/// - If other users may read the file, the log has one warning.
/// - A clone shares the last valid content, and what was logged.
///
/// # Errors
///
/// A fetch fails with [`CredentialError::Provider`](crate::CredentialError::Provider) if the file is missing, malformed,
/// no regular file or on a disk that hangs, and has not been valid before. A `runtimeTokenExpiresAt` of any type that can't be read, or that is before
/// the year 2000, is unknown: the token is used.
///
/// ```
/// use result_poster::{Options, credentials::RuntimeTokenFile};
///
/// let options = Options::builder("https://app.example.com")
///     .credential_provider(RuntimeTokenFile::new("/var/lib/daemon/runtime-token.json"))
///     .build()?;
/// # Ok::<_, result_poster::OptionsError>(())
/// ```
#[derive(Debug, Clone)]
pub struct RuntimeTokenFile(Arc<TokenFile>);

#[derive(Debug)]
struct TokenFile {
    path: PathBuf,
    read: fn(&Path) -> io::Result<FileContent>,
    history: Mutex<ReadHistory>,
}

/// The outcome of reading a file.
#[derive(Clone)]
struct FileContent {
    is_regular: bool,
    is_readable_by_others: bool,
    /// Empty if the file is not a regular one.
    bytes: Vec<u8>,
}

/// The last valid content, and the warnings that were logged.
#[derive(Debug, Default)]
struct ReadHistory {
    last_valid: Option<RuntimeCredentials>,
    /// Whether the file is missing or malformed, and the log says so.
    outage_logged: bool,
    permissions_logged: bool,
}

#[derive(Debug, Error)]
enum TokenFileError {
    #[error("failed to read token file {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    #[error("token file {} could not be read within {HANGS_AFTER:?}", .0.display())]
    Hangs(PathBuf),
    #[error("token file {} is not a regular file", .0.display())]
    NotRegular(PathBuf),
    #[error("token file {} {}", .0.display(), .1)]
    Malformed(PathBuf, Malformed),
}

/// Why a content is malformed, instead of serde's own messages, which may quote the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum Malformed {
    #[error("is not a JSON object")]
    NoObject,
    #[error("has no runtime token as text")]
    NoToken,
    #[error("has a `workerId` that is neither text nor a whole number")]
    WorkerId,
}

impl RuntimeTokenFile {
    /// Creates a provider for the file at this path, which need not exist yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::with_reader(path.into(), read_file)
    }

    fn with_reader(path: PathBuf, read: fn(&Path) -> io::Result<FileContent>) -> Self {
        let history = Mutex::default();
        Self(Arc::new(TokenFile { path, read, history }))
    }
}

impl CredentialProvider for RuntimeTokenFile {
    fn credentials(&self) -> LocalBoxFuture<'_, Result<RuntimeCredentials, BoxError>> {
        Box::pin(async { self.0.read_or_last_valid().await.map_err(Into::into) })
    }

    fn may_be_cached(&self) -> bool {
        false
    }
}

impl TokenFile {
    /// Reads the file, or returns its last valid content.
    async fn read_or_last_valid(&self) -> Result<RuntimeCredentials, TokenFileError> {
        let content = self.read().await;
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let read = content.and_then(|content| self.parse(&content, &mut history));
        match (read, &history.last_valid) {
            (Ok(credentials), _) => {
                if std::mem::take(&mut history.outage_logged) {
                    ignore_panic(|| info!("token file readable again: {}", self.path.display()));
                }
                history.last_valid = Some(credentials.clone());
                Ok(credentials)
            }
            (Err(error), None) => Err(error),
            (Err(error), Some(last_valid)) => {
                let credentials = last_valid.clone();
                if !std::mem::replace(&mut history.outage_logged, true) {
                    ignore_panic(|| warn!("{}; using the last token read from it", chain(&error)));
                }
                Ok(credentials)
            }
        }
    }

    /// Reads the file on another thread, since a slow disk must not block the arbiter.
    async fn read(&self) -> Result<FileContent, TokenFileError> {
        let (path, read) = (self.path.clone(), self.read);
        let reading = READS.join_or_start(self.path.clone(), move || read(&path));
        match timeout_at(reading.hangs_from(), reading.output()).await {
            Ok(content) => content.map_err(|error| TokenFileError::Read(self.path.clone(), error)),
            Err(_) => Err(TokenFileError::Hangs(self.path.clone())),
        }
    }

    fn parse(&self, content: &FileContent, history: &mut ReadHistory) -> Result<RuntimeCredentials, TokenFileError> {
        if !content.is_regular {
            return Err(TokenFileError::NotRegular(self.path.clone()));
        }
        if content.is_readable_by_others && !std::mem::replace(&mut history.permissions_logged, true) {
            let path = self.path.display();
            ignore_panic(|| warn!("token file {path} is readable by other users: chmod 600"));
        }
        parse(&content.bytes).map_err(|malformed| TokenFileError::Malformed(self.path.clone(), malformed))
    }
}

fn read_file(path: &Path) -> io::Result<FileContent> {
    let file = open_without_waiting(path)?;
    let mut content = FileContent {
        is_regular: file.metadata()?.is_file(),
        is_readable_by_others: is_readable_by_others(&file),
        bytes: Vec::new(),
    };
    if content.is_regular {
        file.take(MAX_SIZE).read_to_end(&mut content.bytes)?;
    }
    Ok(content)
}

/// Opens a file for reading. A FIFO without a writer is opened at once, instead of when there is one.
pub(crate) fn open_without_waiting(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
    options.read(true).open(path)
}

/// Parses the content of a token file. The first token that is not empty counts.
pub(crate) fn parse(bytes: &[u8]) -> Result<RuntimeCredentials, Malformed> {
    let names = ["workerId", "runtimeToken", "runtimeJwt", "runtimeTokenExpiresAt"];
    let [worker_id, token, jwt, expires_at] = parse_members(bytes, names).ok_or(Malformed::NoObject)?;
    let tokens = [token, jwt].into_iter().flatten();
    let mut tokens = tokens.filter_map(|token| parse_text(&token));
    let token = tokens.find(|token| !token.is_empty()).ok_or(Malformed::NoToken)?;
    let worker_id = worker_id.as_deref().map(parse_worker_id).transpose()?;
    let mut credentials = RuntimeCredentials::new(worker_id.unwrap_or_default(), token);
    credentials.expires_at = expires_at.as_deref().and_then(parse_time);
    Ok(credentials)
}

/// The trimmed text of a JSON string.
fn parse_text(value: &RawValue) -> Option<String> {
    let text: String = serde_json::from_str(value.get()).ok()?;
    Some(text.trim().to_owned())
}

fn parse_worker_id(value: &RawValue) -> Result<String, Malformed> {
    let json = value.get();
    let number = || json.bytes().all(|byte| byte.is_ascii_digit()).then(|| json.to_owned());
    parse_text(value).or_else(number).ok_or(Malformed::WorkerId)
}

#[cfg(unix)]
fn is_readable_by_others(file: &File) -> bool {
    use std::os::unix::fs::PermissionsExt as _;

    file.metadata().is_ok_and(|meta| meta.permissions().mode() & 0o044 != 0)
}

#[cfg(not(unix))]
fn is_readable_by_others(_: &File) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::{FutureExt as _, future::join_all};
    use secrecy::ExposeSecret as _;

    use super::*;

    fn hang() -> ! {
        loop {
            std::thread::park();
        }
    }

    fn content_of(token: &str) -> FileContent {
        FileContent {
            is_regular: true,
            is_readable_by_others: false,
            bytes: format!(r#"{{"runtimeToken":"{token}"}}"#).into(),
        }
    }

    async fn token_of(file: &RuntimeTokenFile) -> Result<String, String> {
        let credentials = file.credentials().await.map_err(|error| error.to_string())?;
        Ok(credentials.token().unwrap_or_default().to_owned())
    }

    #[actix_rt::test]
    async fn a_file_that_hangs_does_not_stop_another() {
        let hanging = RuntimeTokenFile::with_reader("hangs-alone".into(), |_| hang());
        let same = RuntimeTokenFile::with_reader("hangs-alone".into(), |_| hang());
        for _ in 0..10 {
            assert!(token_of(&hanging).now_or_never().is_none());
            assert!(token_of(&same).now_or_never().is_none());
        }
        let other = RuntimeTokenFile::with_reader("other".into(), |_| Ok(content_of("t")));
        assert_eq!(token_of(&other).await.unwrap(), "t");
    }

    #[actix_rt::test]
    async fn the_last_valid_content_is_used_from_five_seconds_of_a_read_that_hangs() {
        static READS: AtomicUsize = AtomicUsize::new(0);
        let hangs_later =
            RuntimeTokenFile::with_reader("hangs-later".into(), |_| match READS.fetch_add(1, Ordering::SeqCst) {
                0 => Ok(content_of("first")),
                _ => hang(),
            });
        let hangs_at_once = RuntimeTokenFile::with_reader("hangs-at-once".into(), |_| hang());
        assert_eq!(token_of(&hangs_later).await.unwrap(), "first");
        tokio::time::pause();
        let reads = join_all([token_of(&hangs_later), token_of(&hangs_at_once)]);
        let mut reads = Box::pin(reads);
        assert!((&mut reads).now_or_never().is_none());
        tokio::time::advance(HANGS_AFTER).await;
        let fault = Err("token file hangs-at-once could not be read within 5s".to_owned());
        let expected = vec![Ok("first".to_owned()), fault];
        assert_eq!(reads.await, expected);
        // The next fetch does not wait again.
        let reads = join_all([token_of(&hangs_later), token_of(&hangs_at_once)]);
        assert_eq!(reads.now_or_never(), Some(expected));
    }

    /// The worker id and the token of a file with these fields.
    fn parsed(fields: &str) -> Result<(String, String), Malformed> {
        let credentials = parse(format!("{{{fields}}}").as_bytes())?;
        let token = credentials.auth_token.expose_secret().to_owned();
        Ok((credentials.worker_id, token))
    }

    #[test]
    fn a_worker_id_is_a_text_or_a_whole_number() {
        for (worker_id, expected) in [
            (r#""w""#, Ok("w")),
            (r#"" w\n""#, Ok("w")),
            (r#""""#, Ok("")),
            (r#"" ""#, Ok("")),
            ("null", Ok("")),
            ("42", Ok("42")),
            ("18446744073709551616", Ok("18446744073709551616")),
            ("-1", Err(Malformed::WorkerId)),
            ("1.5", Err(Malformed::WorkerId)),
            ("1e999", Err(Malformed::WorkerId)),
            ("true", Err(Malformed::WorkerId)),
            (r#"["w"]"#, Err(Malformed::WorkerId)),
            (r#"{"id":"w"}"#, Err(Malformed::WorkerId)),
            (r#""cut \ud83d""#, Err(Malformed::WorkerId)),
        ] {
            let parsed = parsed(&format!(r#""workerId":{worker_id},"runtimeToken":"t""#));
            let parsed = parsed.map(|(worker_id, _)| worker_id);
            assert_eq!(parsed, expected.map(str::to_owned), "{worker_id}");
        }
    }

    #[test]
    fn the_first_token_that_is_a_text_and_not_empty_counts() {
        for token in [
            "null",
            "42",
            "true",
            "[]",
            r#"["t"]"#,
            r#"{"token":"t"}"#,
            r#""""#,
            r#"" \n""#,
            r#""cut \ud83d""#,
        ] {
            let second = parsed(&format!(r#""runtimeToken":{token},"runtimeJwt":"second""#));
            assert_eq!(second, Ok((String::new(), "second".to_owned())), "{token}");
            let none = parsed(&format!(r#""runtimeToken":{token},"runtimeJwt":{token}"#));
            assert_eq!(none, Err(Malformed::NoToken), "{token}");
        }
        let trimmed = parsed(r#""runtimeToken":" t\n""#);
        assert_eq!(trimmed, Ok((String::new(), "t".to_owned())));
        assert_eq!(parsed(r#""workerId":"w""#), Err(Malformed::NoToken));
    }

    #[test]
    fn the_last_of_equal_fields_counts() {
        let repeated = parsed(r#""workerId":"w1","runtimeToken":"t1","runtimeToken":"t2","workerId":"w2","x":1,"x":2"#);
        assert_eq!(repeated, Ok(("w2".to_owned(), "t2".to_owned())));
    }

    #[test]
    fn a_content_that_is_no_json_object_is_refused() {
        for content in ["", "null", "[]", r#""t""#, r#"["w","t",null,null]"#, r#"{"runtimeTok"#] {
            assert_eq!(parse(content.as_bytes()).unwrap_err(), Malformed::NoObject, "{content}");
        }
    }
}
