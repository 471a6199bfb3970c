//! Deadlines that look once more before they are over.

use std::{pin::pin, time::Duration};

use tokio::{task::yield_now, time::timeout};

/// The output of `work`, or `None` if it takes longer than `limit`.
///
/// When the limit is over, the runtime asks the system once more whether anything has arrived: a process that was stopped
/// learns the time before it learns of its sockets.
pub(super) async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    if let Ok(output) = timeout(limit, &mut work).await {
        return Some(output);
    }
    // A task that yields continues only after the runtime has polled the system.
    yield_now().await;
    timeout(Duration::ZERO, work).await.ok()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
        thread,
    };

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    use super::*;

    #[actix_rt::test]
    async fn work_that_never_ends_is_cut_off() {
        assert_eq!(
            within(Duration::from_millis(1), std::future::pending::<()>()).await,
            None
        );
    }

    #[actix_rt::test]
    async fn bytes_that_have_arrived_by_the_deadline_are_read() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0]).unwrap();
            stream.write_all(b"answer").unwrap();
        });
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The runtime learns that nothing has arrived yet.
        stream.write_all(b"?").await.unwrap();
        let answer = within(Duration::ZERO, async {
            // Not polled before the answer is there: the process stands still until the deadline is over.
            server.join().unwrap();
            let mut answer = [0; 6];
            stream.read_exact(&mut answer).await.unwrap();
            answer
        });
        assert_eq!(answer.await, Some(*b"answer"));
    }
}
