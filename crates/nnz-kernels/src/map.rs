//! Files mapped into memory.

use std::fs::{File, Metadata};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// A file's bytes, paged in by the system when they are accessed. They count against the memory of the process only as
/// long as the system likes, so a file may be larger than memory. Cloning shares.
///
/// Other processes may write to the file meanwhile, which no program can prevent. [`Map::bytes`] checks the file again
/// on each call, and refuses one that is no longer what was opened; bytes obtained before should be requested again
/// where a change would matter. If a part is cut off while it is read, Linux ends the process by a signal; a program that
/// called [`answer_cuts`] ends with a message instead.
#[derive(Clone, Debug)]
pub struct Map(Arc<Open>);

#[derive(Debug)]
struct Open {
    file: File,
    length: u64,
    changed: Option<SystemTime>,
    map: memmap2::Mmap,
    #[cfg(target_os = "linux")]
    _place: cuts::Place,
}

impl Map {
    /// Maps a regular file.
    ///
    /// # Errors
    /// When it cannot be opened or mapped; a folder, pipe or device is refused.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let said = file.metadata()?;
        if !said.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        // SAFETY: the map is read-only. That the file may change under it is beyond what a process can rule out; readers take
        // any bytes and check what they say before they use it as a size or place, `bytes` refuses a file that changed, and
        // one that shrinks ends the process, by a signal or by `answer_cuts`.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        #[cfg(target_os = "linux")]
        let _place = cuts::Place::new(&map, path);
        let (length, changed) = Self::state(&said);
        if length != map.len() as u64 {
            return Err(io::Error::other("it changed while it was opened"));
        }
        let open = Open {
            file,
            length,
            changed,
            map,
            #[cfg(target_os = "linux")]
            _place,
        };
        Ok(Self(Arc::new(open)))
    }

    fn state(said: &Metadata) -> (u64, Option<SystemTime>) {
        (said.len(), said.modified().ok())
    }

    /// Returns the bytes, if the file is still as long and as old as when it was opened.
    ///
    /// # Errors
    /// When another process wrote to it or cut it short since.
    pub fn bytes(&self) -> io::Result<&[u8]> {
        self.whole()?;
        Ok(&self.0.map)
    }

    /// Checks that the file is what was opened, so that earlier reads count.
    ///
    /// # Errors
    /// As [`Map::bytes`].
    pub fn whole(&self) -> io::Result<()> {
        match Self::state(&self.0.file.metadata()?) == (self.0.length, self.0.changed) {
            true => Ok(()),
            false => Err(io::Error::other("it changed while it was read; leave it alone meanwhile, and try again")),
        }
    }
}

/// Makes a process that reads past the end of a mapped file, which another process cut short, exit with code 2 and a message
/// that names the file, as far as the system allows (Linux); temporary files it had begun to write stay. For
/// programs: a library leaves signals to them. Calling it again changes nothing.
pub fn answer_cuts() {
    #[cfg(target_os = "linux")]
    cuts::answer();
}

#[cfg(target_os = "linux")]
mod cuts {
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;
    use std::sync::Once;
    use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

    /// Address and name of a mapped file, for a signal handler, which may neither lock nor allocate: entries
    /// are never taken out of the list, only used again for a file of the same name.
    struct Entry {
        /// Zero if the entry is free.
        start: AtomicUsize,
        end: AtomicUsize,
        sentence: Vec<u8>,
        next: Option<&'static Entry>,
    }

    static FIRST: AtomicPtr<Entry> = AtomicPtr::new(std::ptr::null_mut());

    /// Iterates over all entries.
    fn entries() -> impl Iterator<Item = &'static Entry> {
        // SAFETY: null, or an entry that was leaked in `Place::new` and never changes except through its atomics.
        let first = unsafe { FIRST.load(Ordering::Acquire).as_ref() };
        std::iter::successors(first, |e| e.next)
    }

    /// An entry that a map holds while it lives.
    #[derive(Debug)]
    pub struct Place(&'static Entry);

    impl std::fmt::Debug for Entry {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "{:#x}", self.start.load(Ordering::Relaxed))
        }
    }

    impl Place {
        pub fn new(map: &[u8], path: &Path) -> Self {
            let name: Vec<u8> =
                path.as_os_str().as_bytes().iter().map(|&b| if b < 32 || b == 127 { b'?' } else { b }).collect();
            let sentence = [b"error: ", &name[..], b": it was cut short while it was read\n"].concat();
            let range = map.as_ptr_range();
            let (start, end) = (range.start as usize, range.end as usize);
            let entry = entries()
                .filter(|e| e.sentence == sentence)
                .find(|e| e.start.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_ok())
                .unwrap_or_else(|| {
                    let mut head = FIRST.load(Ordering::Acquire);
                    let (start, end) = (AtomicUsize::new(1), AtomicUsize::new(0));
                    let entry = Box::into_raw(Box::new(Entry { start, end, sentence, next: None }));
                    loop {
                        // SAFETY: the entry is this thread's until it is in the list; the head is as in `entries`.
                        unsafe { (*entry).next = head.as_ref() };
                        match FIRST.compare_exchange(head, entry, Ordering::AcqRel, Ordering::Acquire) {
                            // SAFETY: it was made above and is never freed.
                            Ok(_) => break unsafe { &*entry },
                            Err(now) => head = now,
                        }
                    }
                });
            entry.end.store(end, Ordering::Release);
            entry.start.store(start.max(2), Ordering::Release);
            Self(entry)
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            self.0.end.store(0, Ordering::Release);
            self.0.start.store(0, Ordering::Release);
        }
    }

    pub fn answer() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            // SAFETY: zeros are a valid `sigaction`; the handler does only what signal handlers may do, and runs on the
            // stack that the standard library gives it.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = handle as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
                libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
            }
        });
    }

    extern "C" fn handle(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: the system passes a whole `siginfo_t`; `write`, `_exit` and `signal` are allowed here; entries are never
        // freed.
        unsafe {
            let at = (*info).si_addr() as usize;
            let inside = |e: &&Entry| (e.start.load(Ordering::Acquire)..e.end.load(Ordering::Acquire)).contains(&at);
            if let Some(entry) = entries().find(inside) {
                libc::write(2, entry.sentence.as_ptr().cast(), entry.sentence.len());
                libc::_exit(2);
            }
            // Not one of ours: as without a handler, when the same instruction runs again.
            libc::signal(signal, libc::SIG_DFL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_changed_is_refused() {
        let dir = std::env::temp_dir().join(format!("nnz-map-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("file");
        std::fs::write(&path, [7; 9000]).unwrap();
        let map = Map::open(&path).unwrap();
        assert_eq!(map.bytes().unwrap(), [7; 9000]);
        File::options().write(true).open(&path).unwrap().set_len(100).unwrap();
        // Its length alone: a page that is gone would end the test.
        let said = map.bytes().map(<[u8]>::len).unwrap_err().to_string();
        assert!(said.contains("changed while it was read"), "{said}");
        drop(map);
        assert!(Map::open(&path).unwrap().bytes().unwrap().len() == 100 && Map::open(&dir).is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
