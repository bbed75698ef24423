//! Sockets without manners: an upstream that says exactly what it is told, and a client that does.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What an upstream writes: pieces, each in a write of its own; then it closes.
pub type Script = Vec<Vec<u8>>;

/// Stands for a pause between two pieces, in which the first one is read alone.
pub const PAUSE: &[u8] = b"";

/// An upstream that answers every request with the script that is set.
pub struct RawUpstream {
    pub base_url: String,
    script: Arc<Mutex<Script>>,
    requests: Arc<Mutex<Vec<Vec<u8>>>>,
    task: JoinHandle<()>,
}

impl RawUpstream {
    pub async fn start() -> RawUpstream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
        let script = Arc::new(Mutex::new(Script::new()));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (said, heard) = (script.clone(), requests.clone());
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, said.clone(), heard.clone()));
            }
        });
        RawUpstream {
            base_url,
            script,
            requests,
            task,
        }
    }

    pub fn say(&self, script: Script) {
        *self.script.lock().unwrap() = script;
    }

    /// The last request, as it came over the wire.
    pub fn last_request(&self) -> Vec<u8> {
        self.requests.lock().unwrap().last().unwrap().clone()
    }
}

impl Drop for RawUpstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, script: Arc<Mutex<Script>>, requests: Arc<Mutex<Vec<Vec<u8>>>>) {
    stream.set_nodelay(true).unwrap();
    let request = read_message(&mut stream).await;
    // Asked for at the start of every gateway, and not what a test is about.
    if request.starts_with(b"GET /v1/models ") {
        let missing = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        stream.write_all(missing).await.ok();
        return;
    }
    requests.lock().unwrap().push(request);
    let script = script.lock().unwrap().clone();
    for piece in script {
        if piece == PAUSE {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            continue;
        }
        if stream.write_all(&piece).await.is_err() {
            return;
        }
        // Gives the piece the chance to travel alone.
        tokio::task::yield_now().await;
    }
    stream.shutdown().await.ok();
}

/// Reads one message with a `content-length`, head and body.
pub async fn read_message(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        if let Some(head) = find(&bytes, b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
            let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
            if bytes.len() >= head + 4 + length {
                return bytes;
            }
        }
        let mut piece = vec![0; 16 * 1024];
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => return bytes,
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
        }
    }
}

/// Sends bytes to an address, and reads what comes until the other side closes.
pub async fn exchange(address: &str, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok();
    answer
}

pub fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, wanted)
}

/// The body of a message.
pub fn body(message: &[u8]) -> &[u8] {
    let head = find(message, b"\r\n\r\n").unwrap();
    &message[head + 4..]
}

/// A stream of events, as an answer that ends with the connection.
pub fn event_stream(pieces: Vec<Vec<u8>>) -> Script {
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    std::iter::once(head.to_vec()).chain(pieces).collect()
}
