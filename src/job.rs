//! Runs edits on one named background thread that owns the engine; knows neither tensors nor hosts.
#![forbid(unsafe_code)]

use crate::engine::Engine;
use crate::engine::budget::cost::Estimate;
use crate::engine::request::{Edit, EditRequest, EngineOptions, Progress, Watch};
use crate::engine::stop::{self, Stop};
use crate::error::{Error, Result};
use crate::text::{Text, text};
use crossbeam::channel::{Receiver, Sender, TryRecvError, unbounded};
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::any::Any;
use std::num::NonZero;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, available_parallelism};
use std::time::Duration;

/// Stack of the threads on which the engine runs: candle walks and drops its graph recursively.
const STACK_BYTES: usize = 64 << 20;

/// Time without work after which memory is given back: longer than a person thinks about the next strength, which wants
/// the same again.
const UNTIL_REST: Duration = Duration::from_secs(5);

/// The engine's thread. Dropping it stops the running job and waits for the thread.
pub struct Worker {
    tasks: Option<Sender<Task>>,
    /// Set once to stop whatever still runs when the worker is dropped.
    shutdown: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

enum Task {
    Edit { request: EditRequest, cancel: Arc<AtomicBool>, reports: Sender<Report> },
    Estimate { request: EditRequest, answer: Sender<Result<Estimate>> },
}

enum Report {
    Progress(Progress),
    End(Result<Box<Edit>>),
}

/// One submitted edit. Dropping it cancels the edit.
pub struct Job {
    reports: Receiver<Report>,
    cancel: Arc<AtomicBool>,
    progress: Option<Progress>,
}

/// An estimate that was asked for.
pub struct Estimating(Receiver<Result<Estimate>>);

/// What [`Job::poll`] found.
pub enum JobState {
    /// Not finished; the latest progress, `None` before the first step.
    Running(Option<Progress>),
    /// Finished, failed or cancelled ([`Error::Cancelled`]). Given out once.
    Ended(Result<Box<Edit>>),
}

impl Worker {
    /// Starts the thread; `engine` moves there and stays.
    pub fn start(engine: Engine) -> Result<Self> {
        Self::with(engine, Engine::edit, Engine::estimate, Engine::options)
    }

    /// Starts the thread with something that edits as `edit` says.
    fn with<E: Send + 'static>(
        mut engine: E,
        edit: fn(&mut E, &EditRequest, &mut Watch<'_>) -> Result<Edit>,
        estimate: fn(&E, &EditRequest) -> Result<Estimate>,
        options: fn(&E) -> &EngineOptions,
    ) -> Result<Self> {
        let (tasks, inbox) = unbounded();
        let shutdown = Arc::new(AtomicBool::new(false));
        let (stop, mut pool) = (shutdown.clone(), None::<(usize, ThreadPool)>);
        let run = move || {
            let mut is_resting = true;
            loop {
                let next = if is_resting { inbox.recv().ok() } else { inbox.recv_timeout(UNTIL_REST).ok() };
                let task = match next {
                    Some(task) => task,
                    None if is_resting => break,
                    None => {
                        // Every thread has memory of its own that lies free.
                        let give_back = options(&engine).give_back;
                        give_back();
                        if let Some((_, pool)) = &pool {
                            pool.broadcast(|_| give_back());
                        }
                        is_resting = true;
                        continue;
                    }
                };
                is_resting = false;
                match task {
                    Task::Edit { request, cancel, reports } => {
                        let stopped = || cancel.load(Ordering::Relaxed) || stop.load(Ordering::Relaxed);
                        let obeyed = Stop::new([cancel.clone(), stop.clone()]);
                        let mut watch = |progress| {
                            // The host may have dropped the job; then nobody listens, and `stopped` is true.
                            let _ = reports.send(Report::Progress(progress));
                            if stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                        };
                        let log = options(&engine).log;
                        let body = || {
                            panic_to_error(|| {
                                let result = edit(&mut engine, &request, &mut watch);
                                log(&outcome(&result));
                                result
                            })
                        };
                        // A thousand on two cores wait for each other for minutes.
                        let most = std::thread::available_parallelism().map_or(usize::MAX, |cores| 4 * cores.get());
                        let threads = (request.params.threads as usize).min(most);
                        let result =
                            if stopped() { Err(Error::Cancelled) } else { in_pool(&mut pool, threads, obeyed, body) };
                        // Whatever it was doing then says in its own words that it was stopped.
                        let result = result.map_err(|error| if stopped() { Error::Cancelled } else { error });
                        let _ = reports.send(Report::End(result.map(Box::new)));
                    }
                    Task::Estimate { request, answer } => {
                        // Nobody waits for the answer any more when another estimate was asked for.
                        let _ = answer.send(panic_to_error(|| estimate(&engine, &request)));
                    }
                }
            }
        };
        let thread = start_thread("imagic-engine", run)?;
        Ok(Self { tasks: Some(tasks), shutdown, thread: Some(thread) })
    }

    /// Queues an edit; it starts when the ones before it have ended.
    pub fn submit(&self, request: EditRequest) -> Job {
        let (reports, inbox) = unbounded();
        let cancel = Arc::new(AtomicBool::new(false));
        self.queue(Task::Edit { request, cancel: cancel.clone(), reports });
        Job { reports: inbox, cancel, progress: None }
    }

    /// Asks what an edit would cost; the answer comes when the edits before it have ended.
    pub fn estimate(&self, request: EditRequest) -> Estimating {
        let (answer, inbox) = unbounded();
        self.queue(Task::Estimate { request, answer });
        Estimating(inbox)
    }

    fn queue(&self, task: Task) {
        let sent = self.tasks.as_ref().is_some_and(|tasks| tasks.send(task).is_ok());
        debug_assert!(sent, "the worker survives panics and ends only in drop");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shutdown.store(true, Ordering::Relaxed);
        self.tasks = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was already reported to the job that caused it.
            let _ = thread.join();
        }
    }
}

impl Job {
    /// Never waits. After the end was given out once, says that the job failed to answer.
    pub fn poll(&mut self) -> JobState {
        loop {
            match self.reports.try_recv() {
                Ok(Report::Progress(progress)) => self.progress = Some(progress),
                Ok(Report::End(result)) => return JobState::Ended(result),
                Err(TryRecvError::Empty) => return JobState::Running(self.progress.clone()),
                Err(TryRecvError::Disconnected) => {
                    let reason = text!("the worker thread is gone; start the editor again");
                    return JobState::Ended(Err(Error::Engine(reason)));
                }
            }
        }
    }

    /// Asks the edit to stop; it does so within a moment, or, once weights are being changed, within one step.
    pub fn cancel(&self) {
        self.cancel.store(true, Ordering::Relaxed);
    }
}

impl Estimating {
    /// Never waits; the answer is given out once.
    pub fn poll(&self) -> Option<Result<Estimate>> {
        self.0.try_recv().ok()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.cancel();
    }
}

/// Starts a thread that is called `name`.
pub fn start_thread(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.into()).spawn(body).map_err(|error| {
        Error::Engine(text!("cannot start a thread: {error}; close other programs and try again", error = &error))
    })
}

/// Calls `body` on one of `threads` threads that share its work (0: as many as the processor has), from `pool` if that
/// has as many, and that look at `stop` meanwhile. Called from any other thread, every operation would take two
/// switches of threads, a fifth of an edit.
fn in_pool<T: Send>(
    pool: &mut Option<(usize, ThreadPool)>,
    threads: usize,
    stop: Stop,
    body: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    if pool.as_ref().is_none_or(|(has, _)| *has != threads) {
        *pool = None;
        let name = |number| format!("imagic-engine-{number}");
        let builder = ThreadPoolBuilder::new().num_threads(threads).stack_size(STACK_BYTES).thread_name(name);
        let new = builder.build().map_err(|error| {
            let threads = if threads == 0 { available_parallelism().map_or(1, NonZero::get) } else { threads };
            Error::Engine(text!(
                "cannot start {threads} threads: {error}; close other programs or choose fewer threads",
                threads,
                error = error.to_string()
            ))
        })?;
        *pool = Some((threads, new));
    }
    let (_, pool) = pool.as_ref().expect("made above");
    pool.broadcast(|_| stop::obey(Some(stop.clone())));
    pool.install(body)
}

/// For the log.
fn outcome(result: &Result<Edit>) -> String {
    match result {
        Ok(_) => "done".to_owned(),
        // Its values may be the user's own words.
        Err(Error::Parameter(text)) => format!("refused: {}", text.key),
        Err(error) => format!("failed: {error}"),
    }
}

fn panic_to_error<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| Err(Error::Engine(Text::verbatim(panic_text(&*panic)))))
}

/// The message of a caught panic.
pub fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::picture::pixels::Picture;
    use crate::engine::request::Tuned;
    use crate::image::LayerImage;
    use crate::params::Params;

    fn request(prompt: &str) -> EditRequest {
        let layer = LayerImage::new(1, 1, vec![0; 4]).expect("1x1");
        let params = Params { prompt: prompt.into(), ..Params::paper() };
        let (layer, document) = (layer.into(), String::new());
        EditRequest {
            layer,
            params,
            model_path: "none".into(),
            familiar_psnr: None,
            document,
            selection: None,
            layer_digest: None,
            previews: 0,
        }
    }

    /// An edit that does what the prompt says.
    fn obey(_engine: &mut EngineOptions, request: &EditRequest, watch: &mut Watch<'_>) -> Result<Edit> {
        match request.params.prompt.as_str() {
            "panic" => panic!("as told"),
            "wait" => loop {
                let stage = crate::engine::request::Stage::FineTune;
                if watch(Progress { stage, step: 1, steps: 2, fraction: 0.5, ..Progress::default() }).is_break() {
                    return Err(Error::Cancelled);
                }
                std::thread::sleep(std::time::Duration::from_millis(1));
            },
            _ => Ok(Edit {
                tuned: Tuned::Now,
                seconds: vec![],
                seed: 0,
                embedding_losses: vec![],
                tuning_losses: vec![],
                notes: vec![],
                hint: None,
                picture: Picture::gray(1, 1),
            }),
        }
    }

    /// As [`obey`], with the number of threads for the seconds of loading.
    fn count(engine: &mut EngineOptions, request: &EditRequest, watch: &mut Watch<'_>) -> Result<Edit> {
        let threads = rayon::current_num_threads() as f32;
        Ok(Edit { seconds: vec![(crate::engine::request::Stage::LoadModel, threads)], ..obey(engine, request, watch)? })
    }

    #[test]
    fn an_edit_gets_the_threads_that_it_asks_for() {
        let worker = Worker::with(EngineOptions::default(), count, |_, _| Err(Error::Cancelled), |options| options)
            .expect("a thread");
        let all = std::thread::available_parallelism().map_or(1, usize::from);
        for (threads, expected) in [(1, 1), (3, 3), (3, 3), (0, all), (2, 2)] {
            let mut request = request("count");
            request.params.threads = threads;
            let edit = end(worker.submit(request)).expect("an edit");
            assert_eq!(edit.seconds[0].1, expected as f32, "{threads} threads were asked for");
        }
    }

    fn worker() -> Worker {
        let estimate = |_: &EngineOptions, request: &EditRequest| match request.params.prompt.as_str() {
            "panic" => panic!("as told"),
            _ => Ok(Estimate { tuned: true, goes_on: None, seconds: Some(2.0), memory: None, on_gpu: false }),
        };
        Worker::with(EngineOptions::default(), obey, estimate, |options| options).expect("a thread")
    }

    fn end(mut job: Job) -> Result<Box<Edit>> {
        loop {
            if let JobState::Ended(result) = job.poll() {
                return result;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    #[test]
    fn a_panic_is_an_error_and_the_next_job_works() {
        let worker = worker();
        let error = end(worker.submit(request("panic"))).expect_err("a panic");
        assert_eq!(error.to_string(), "the engine failed: as told");
        assert!(end(worker.submit(request("succeed"))).is_ok());
    }

    #[test]
    fn an_estimate_comes_and_its_panic_is_an_error() {
        let worker = worker();
        let wait = |estimating: Estimating| loop {
            if let Some(answer) = estimating.poll() {
                return answer;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        };
        assert!(wait(worker.estimate(request("panic"))).is_err());
        drop(worker.estimate(request("succeed")));
        assert_eq!(wait(worker.estimate(request("succeed"))).expect("an estimate").seconds, Some(2.0));
    }

    #[test]
    fn a_cancelled_or_dropped_job_ends_and_the_next_works() {
        let worker = worker();
        let job = worker.submit(request("wait"));
        job.cancel();
        assert!(matches!(end(job), Err(Error::Cancelled)));
        drop(worker.submit(request("wait")));
        let queued = worker.submit(request("wait"));
        queued.cancel();
        assert!(matches!(end(queued), Err(Error::Cancelled)), "cancelled before it began");
        assert!(end(worker.submit(request("succeed"))).is_ok());
    }

    #[test]
    fn dropping_the_worker_stops_the_running_job() {
        let worker = worker();
        let job = worker.submit(request("wait"));
        drop(worker);
        assert!(matches!(end(job), Err(Error::Cancelled)));
    }
}
