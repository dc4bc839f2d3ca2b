//! Reading ahead: when blocks of a pack are wanted one after the other, those behind them are decoded before they are asked for.

use std::collections::HashMap;
use std::sync::mpsc::{sync_channel, Receiver, SyncSender};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::lock::lock;
use crate::reader::Reader;

/// Packs of which it is known what was wanted last.
const MAX_STREAMS: usize = 64;
const MAX_THREADS: usize = 3;

/// The last block of a pack that was wanted, the last that was asked for ahead, and when.
#[derive(Clone, Copy)]
struct Stream {
    last: u16,
    reached: u16,
    used: u64,
}

#[derive(Default)]
struct Streams {
    by_pack: HashMap<u32, Stream>,
    clock: u64,
}

/// Decodes blocks in the background. Its threads end with it.
pub(super) struct Ahead {
    streams: Mutex<Streams>,
    /// None when nothing is read ahead.
    wanted: Option<SyncSender<(u32, u16)>>,
    /// Blocks.
    window: u16,
}

impl Ahead {
    /// `window`: how many blocks are decoded ahead, 0 for none.
    pub(super) fn new(reader: &Arc<Reader>, window: u16) -> Ahead {
        let threads = thread::available_parallelism().map_or(1, |cores| cores.get() - 1).clamp(1, MAX_THREADS);
        let wanted = (window > 0).then(|| {
            let (send, receive) = sync_channel(usize::from(window) * 4);
            let receive = Arc::new(Mutex::new(receive));
            for _ in 0..threads {
                let (reader, receive) = (reader.clone(), receive.clone());
                // Without a thread nothing is read ahead, and nothing else is lost.
                let _ = thread::Builder::new().name("ahead".into()).spawn(move || work(&reader, &receive));
            }
            send
        });
        Ahead { streams: Mutex::default(), wanted, window }
    }

    /// Notes that a block is wanted. True when the one before it was wanted last: then more are decoded ahead.
    pub(super) fn note(&self, pack: u32, block: u16) -> bool {
        let (sequential, missing) = lock(&self.streams).note(pack, block, self.window);
        if let Some(wanted) = &self.wanted {
            for next in missing {
                if wanted.try_send((pack, next)).is_err() {
                    break;
                }
            }
        }
        sequential
    }
}

impl Streams {
    /// Whether `block` follows, and the blocks to be decoded now.
    fn note(&mut self, pack: u32, block: u16, window: u16) -> (bool, std::ops::Range<u16>) {
        self.clock += 1;
        let used = self.clock;
        if !self.by_pack.contains_key(&pack) && self.by_pack.len() >= MAX_STREAMS {
            if let Some(oldest) = self.by_pack.iter().min_by_key(|(_, stream)| stream.used).map(|(pack, _)| *pack) {
                self.by_pack.remove(&oldest);
            }
        }
        let stream = self.by_pack.entry(pack).or_insert(Stream { last: u16::MAX, reached: 0, used });
        stream.used = used;
        let last = std::mem::replace(&mut stream.last, block);
        if last == block {
            return (stream.reached > block, 0..0);
        }
        if last == u16::MAX || last.checked_add(1) != Some(block) {
            stream.reached = block;
            return (false, 0..0);
        }
        let from = stream.reached.max(block).saturating_add(1);
        let to = block.saturating_add(window).saturating_add(1);
        stream.reached = stream.reached.max(to - 1);
        (true, from..to.max(from))
    }
}

fn work(reader: &Reader, wanted: &Mutex<Receiver<(u32, u16)>>) {
    loop {
        let next = lock(wanted).recv();
        let Ok((pack, block)) = next else { return };
        reader.warm(pack, block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_in_a_row_are_asked_for_once_and_before_they_are_wanted() {
        let mut streams = Streams::default();
        assert_eq!(streams.note(1, 5, 3), (false, 0..0));
        assert_eq!(streams.note(1, 5, 3), (false, 0..0));
        assert_eq!(streams.note(1, 6, 3), (true, 7..10));
        assert_eq!(streams.note(1, 6, 3), (true, 0..0));
        assert_eq!(streams.note(1, 7, 3), (true, 10..11));
        // Another pack in between changes nothing; another place in the same ends it.
        assert_eq!(streams.note(2, 8, 3), (false, 0..0));
        assert_eq!(streams.note(1, 8, 3), (true, 11..12));
        assert_eq!(streams.note(1, 100, 3), (false, 0..0));
        assert_eq!(streams.note(1, 99, 3), (false, 0..0));
        assert_eq!(streams.note(1, u16::MAX - 1, 3), (false, 0..0));
    }

    #[test]
    fn streams_that_were_not_used_for_long_are_forgotten() {
        let mut streams = Streams::default();
        for pack in 0..1000 {
            streams.note(pack, 1, 3);
        }
        assert_eq!(streams.by_pack.len(), MAX_STREAMS);
        assert!(streams.note(999, 2, 3).0);
    }
}
