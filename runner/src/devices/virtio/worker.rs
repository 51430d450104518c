//! A thread that serves queues: waits for notifications, a file descriptor of the back end, or the order to stop.

use std::{
    io,
    os::fd::{AsRawFd as _, RawFd},
    sync::Arc,
    thread::{self, JoinHandle},
};

use vmm_sys_util::{
    epoll::{ControlOperation, Epoll, EpollEvent, EventSet},
    eventfd::EventFd,
};

/// What woke a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// The driver notified queue number N of this worker.
    Queue(usize),
    /// The back end's descriptor is readable.
    Backend,
}

/// Whether the worker goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Wait for the next wake.
    Continue,
    /// Wait for the next wake, but not for the back end until the driver notified a queue.
    PauseBackend,
    /// The device failed: wait for nothing but the order to stop.
    Idle,
}

/// The thread. Dropping it stops and joins.
#[derive(Debug)]
pub struct Worker {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

const TOKEN_STOP: u64 = u64::MAX;
const TOKEN_BACKEND: u64 = u64::MAX - 1;

impl Worker {
    /// Starts a thread that calls `serve` for each wake, and once for each queue at the start, since notifications from
    /// before are lost.
    ///
    /// # Errors
    /// Where epoll, eventfd or thread cannot be made.
    pub fn spawn(
        name: String,
        kicks: Vec<Arc<EventFd>>,
        backend: Option<RawFd>,
        mut serve: impl FnMut(Wake) -> Next + Send + 'static,
    ) -> io::Result<Self> {
        let stop = Arc::new(EventFd::new(libc::EFD_NONBLOCK)?);
        let epoll = Epoll::new()?;
        let add = |fd: RawFd, token: u64| epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, token));
        add(stop.as_raw_fd(), TOKEN_STOP)?;
        for (index, kick) in (0_u64..).zip(&kicks) {
            add(kick.as_raw_fd(), index)?;
        }
        if let Some(fd) = backend {
            add(fd, TOKEN_BACKEND)?;
        }
        let thread = thread::Builder::new().name(name).spawn(move || {
            // Whether the back end's descriptor is watched.
            let mut watched = true;
            let mut watch = |next: Next| {
                let wanted = next == Next::Continue;
                if let Some(fd) = backend
                    && wanted != watched
                {
                    let (operation, event) = if wanted {
                        (ControlOperation::Add, EpollEvent::new(EventSet::IN, TOKEN_BACKEND))
                    } else {
                        (ControlOperation::Delete, EpollEvent::default())
                    };
                    if epoll.ctl(operation, fd, event).is_ok() {
                        watched = wanted;
                    }
                }
            };
            let mut state = Next::Continue;
            for index in 0..kicks.len() {
                if state != Next::Idle {
                    state = merge(state, index, serve(Wake::Queue(index)));
                    watch(state);
                }
            }
            let mut events = [EpollEvent::default(); 16];
            loop {
                let count = match epoll.wait(-1, &mut events) {
                    Ok(count) => count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(_) => return,
                };
                for event in events.iter().take(count) {
                    let (wake, queue) = match event.data() {
                        TOKEN_STOP => return,
                        TOKEN_BACKEND => (Wake::Backend, 0),
                        index => {
                            let index = usize::try_from(index).expect("made from an index");
                            // Non-blocking: an empty counter means that somebody else took the wake.
                            let _ = kicks[index].read();
                            (Wake::Queue(index), index)
                        }
                    };
                    if state != Next::Idle {
                        state = merge(state, queue, serve(wake));
                        watch(state);
                    }
                }
            }
        })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

/// The state after `next` of queue number `queue`. The back end belongs to queue 0, so the others do not resume it.
fn merge(state: Next, queue: usize, next: Next) -> Next {
    match (next, queue) {
        (Next::Continue, 1..) => state,
        (next, _) => next,
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
