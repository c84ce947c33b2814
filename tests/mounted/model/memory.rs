//! Shared memory: bytes.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::uio::{pread, pwrite};
use proptest::prelude::*;

use super::sys::{self, Got, Memory};
use super::{By, Model, Outcome, by, errno, open, same, status, write};
use crate::common::World;

/// The most that anything has here: four pages.
const MOST: usize = 16 << 10;

/// Sizes and offsets, those around pages more often than others.
fn size() -> impl Strategy<Value = usize> {
    let page = (1..4_usize, 0..3_usize).prop_map(|(pages, more)| pages * 4096 - 1 + more);
    prop_oneof![2 => 0..300_usize, 2 => 0..MOST, 1 => page]
}

/// Bytes that are easy to print.
#[derive(Clone, Copy, Debug)]
pub struct Fill {
    byte: u8,
    length: usize,
}

impl Fill {
    fn bytes(self) -> Vec<u8> {
        vec![self.byte; self.length]
    }
}

fn fill() -> impl Strategy<Value = Fill> {
    // Long enough to reach into the next page.
    let length = prop_oneof![0..20_usize, 0..6000_usize];
    (1..u8::MAX, length).prop_map(|(byte, length)| Fill { byte, length })
}

/// Through what memory is reached.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    /// The file of the mount: one that stays open, or one that is opened for it.
    Open,
    File,
    /// C's descriptor, where there is one; C's mapping; one of the mount's file.
    C,
    Mapped,
    MappedFile,
}

fn way() -> impl Strategy<Value = Way> {
    let all = vec![Way::Open, Way::File, Way::C, Way::Mapped, Way::MappedFile];
    prop::sample::select(all)
}

/// One `pwrite(2)` through the mount.
fn write_at(file: &File, at: usize, data: &[u8]) -> Got<usize> {
    file.write_at(data, at as u64).map_err(|error| errno(&error))
}

fn read_at(file: &File, at: usize, length: usize) -> Got<Vec<u8>> {
    let mut data = vec![0; length];
    let count = file.read_at(&mut data, at as u64).map_err(|error| errno(&error))?;
    data.truncate(count);
    Ok(data)
}

/// What is in `bytes` there.
fn part(bytes: &[u8], at: usize, length: usize) -> Vec<u8> {
    bytes.iter().skip(at).take(length).copied().collect()
}

/// The first difference, which says more than thousands of bytes.
fn same_bytes(what: &str, got: Got<Vec<u8>>, expected: &[u8]) -> Outcome {
    let got = got.unwrap_or_default();
    let differs = got.iter().zip(expected).position(|(one, other)| one != other);
    same(what, (got.len(), differs), (expected.len(), None))
}

#[derive(Clone, Debug)]
pub enum Step {
    Write(Way, usize, Fill),
    Append(Fill),
    Read(Way, usize, usize),
    Truncate(By, usize),
    /// Opens it with `O_TRUNC`.
    Empty,
    Rename,
    /// Removes it and makes it anew.
    Renew(By, By),
}

const fn arguments(passed: bool) -> &'static [&'static str] {
    if passed { &[] } else { &["-o", "no_passthrough"] }
}

/// Maps a file of the mount, which only the kernel itself can do.
fn map(file: &File, length: usize, passed: bool) -> Option<Memory> {
    let mapped = Memory::map(file, length);
    assert!(mapped.is_ok() == passed, "mapped: {:?}", mapped.map(drop));
    mapped.ok()
}

/// A POSIX shared memory object, whose data the kernel moves if it is `PASSED` through, else the
/// daemon.
pub struct Object<const PASSED: bool> {
    mount: PathBuf,
    name: &'static str,
    file: File,
    append: File,
    native: OwnedFd,
    mapped_file: Option<Memory>,
    mapped: Memory,
    bytes: Vec<u8>,
}

impl<const PASSED: bool> Object<PASSED> {
    fn path(&self) -> PathBuf {
        self.mount.join("shm").join(self.name)
    }

    fn c_name(&self) -> CString {
        CString::new(format!("/{}", self.name)).unwrap()
    }

    /// A new object, opened and mapped in all ways.
    fn made(mount: PathBuf, name: &'static str, by: By) -> Self {
        let (path, c_name) =
            (mount.join("shm").join(name), CString::new(format!("/{name}")).unwrap());
        let (file, native) = match by {
            By::C => {
                let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
                let native = sys::shm_open(&c_name, flags, 0o600).unwrap();
                (open(&path, libc::O_RDWR).unwrap(), native)
            }
            By::Mount => {
                let file = open(&path, libc::O_RDWR | libc::O_CREAT).unwrap();
                (file, sys::shm_open(&c_name, libc::O_RDWR, 0).unwrap())
            }
        };
        let append = open(&path, libc::O_WRONLY | libc::O_APPEND).unwrap();
        let mapped_file = map(&file, MOST, PASSED);
        let mapped = Memory::map(&native, MOST).unwrap();
        Self { mount, name, file, append, native, mapped_file, mapped, bytes: Vec::new() }
    }

    fn put(&mut self, at: usize, data: &[u8]) {
        if !data.is_empty() {
            self.bytes.resize(self.bytes.len().max(at + data.len()), 0);
            self.bytes[at..at + data.len()].copy_from_slice(data);
        }
    }
}

impl<const PASSED: bool> Model for Object<PASSED> {
    type Step = Step;

    const ARGUMENTS: &'static [&'static str] = arguments(PASSED);

    fn steps() -> BoxedStrategy<Step> {
        prop_oneof![
            8 => (way(), size(), fill()).prop_map(|(way, at, data)| Step::Write(way, at, data)),
            2 => fill().prop_map(Step::Append),
            4 => (way(), size(), size()).prop_map(|(way, at, length)| Step::Read(way, at, length)),
            3 => (by(), size()).prop_map(|(by, size)| Step::Truncate(by, size)),
            1 => Just(Step::Empty),
            1 => Just(Step::Rename),
            1 => (by(), by()).prop_map(|(by, make)| Step::Renew(by, make)),
        ]
        .boxed()
    }

    fn new(world: &World) -> Self {
        // Of the last one.
        for name in [c"/model", c"/renamed"] {
            let _ = sys::shm_unlink(name);
        }
        Self::made(world.path(), "model", By::C)
    }

    fn step(&mut self, step: &Step) -> Outcome {
        let path = self.path();
        match step {
            Step::Write(way, at, data) => {
                let mapped = matches!(way, Way::Mapped | Way::MappedFile);
                // A mapping ends with the object.
                let room = if mapped { self.bytes.len() } else { MOST }.saturating_sub(*at);
                let data = &data.bytes()[..data.length.min(room)];
                let done = match way {
                    Way::Open => write_at(&self.file, *at, data),
                    Way::File => {
                        open(&path, libc::O_WRONLY).and_then(|file| write_at(&file, *at, data))
                    }
                    Way::C => pwrite(&self.native, data, *at as i64),
                    Way::Mapped | Way::MappedFile if data.is_empty() => Ok(0),
                    Way::Mapped => {
                        self.mapped.write(*at, data);
                        Ok(data.len())
                    }
                    Way::MappedFile => {
                        self.mapped_file.as_ref().unwrap_or(&self.mapped).write(*at, data);
                        Ok(data.len())
                    }
                };
                self.put(*at, data);
                same("written", done, Ok(data.len()))
            }
            Step::Append(data) => {
                let data = &data.bytes()[..data.length.min(MOST - self.bytes.len())];
                // Wherever the end is by now.
                let done = write_at(&self.append, 0, data);
                self.put(self.bytes.len(), data);
                same("appended", done, Ok(data.len()))
            }
            Step::Read(way, at, length) => {
                let expected = part(&self.bytes, *at, *length);
                let done = match way {
                    Way::Open => read_at(&self.file, *at, *length),
                    Way::File => {
                        open(&path, libc::O_RDONLY).and_then(|file| read_at(&file, *at, *length))
                    }
                    Way::C => {
                        let mut data = vec![0; *length];
                        pread(&self.native, &mut data, *at as i64).map(|count| {
                            data.truncate(count);
                            data
                        })
                    }
                    Way::Mapped | Way::MappedFile => {
                        let other = matches!(way, Way::MappedFile).then_some(&self.mapped_file);
                        let memory = other.and_then(Option::as_ref).unwrap_or(&self.mapped);
                        Ok(part(&memory.read(self.bytes.len()), *at, *length))
                    }
                };
                same_bytes("read", done, &expected)
            }
            Step::Truncate(by, size) => {
                self.bytes.resize(*size, 0);
                let done = match by {
                    By::C => nix::unistd::ftruncate(&self.native, *size as i64),
                    By::Mount => nix::unistd::truncate(&path, *size as i64),
                };
                same("truncated", done, Ok(()))
            }
            Step::Empty => {
                self.bytes.clear();
                let done = open(&path, libc::O_WRONLY | libc::O_TRUNC).map(drop);
                same("emptied", done, Ok(()))
            }
            Step::Rename => {
                self.name = if self.name == "model" { "renamed" } else { "model" };
                fs::rename(&path, self.path()).unwrap();
                Ok(())
            }
            Step::Renew(by, make) => {
                match by {
                    By::C => sys::shm_unlink(&self.c_name()).unwrap(),
                    By::Mount => fs::remove_file(&path).unwrap(),
                }
                // What is open still goes on; nobody else has it.
                same_bytes("removed", read_at(&self.file, 0, MOST), &self.bytes)?;
                let new = Self::made(self.mount.clone(), self.name, *make);
                let old = std::mem::replace(self, new);
                let (file, mapped, bytes) = (&old.file, &old.mapped, old.bytes.len());
                same_bytes("gone", read_at(file, 0, MOST), &mapped.read(bytes))
            }
        }
    }

    fn compare(&self) -> Outcome {
        let path = self.path();
        let length = self.bytes.len() as u64;
        let fresh = open(&path, libc::O_RDONLY).and_then(|file| read_at(&file, 0, MOST + 1));
        same_bytes("a file opened now", fresh, &self.bytes)?;
        same_bytes("the open file", read_at(&self.file, 0, MOST + 1), &self.bytes)?;
        same_bytes("C's mapping", Ok(self.mapped.read(self.bytes.len())), &self.bytes)?;
        let mapped_file = self.mapped_file.as_ref().unwrap_or(&self.mapped);
        same_bytes("the file mapped", Ok(mapped_file.read(self.bytes.len())), &self.bytes)?;
        let sizes = [
            fs::metadata(&path).map(|stat| stat.size()).ok(),
            self.file.metadata().map(|stat| stat.size()).ok(),
            nix::sys::stat::fstat(&self.native).map(|stat| stat.st_size as u64).ok(),
            status(&self.mount.join("ctl/shm").join(self.name).join("status"))
                .ok()
                .and_then(|status| status.get("size")?.parse().ok()),
        ];
        same("stat, fstat, C's fstat, status", sizes, [Some(length); 4])
    }
}

const KEY: i32 = 0x77;
const SEGMENT: &str = "sysv/shm/0x00000077";

/// How a segment is made.
#[derive(Clone, Debug)]
pub enum Make {
    C(usize),
    Create(usize),
    Touch,
    Truncate(usize),
    Write(usize, Fill),
}

#[derive(Clone, Debug)]
pub enum SegmentStep {
    Write(Way, usize, Fill),
    Append(Fill),
    Read(Way, usize, usize),
    /// Truncates it to a size, or to its own.
    Truncate(Option<usize>),
    /// Removes it and makes it anew.
    Renew(By, Make),
}

/// A System V segment.
pub struct Segment<const PASSED: bool> {
    mount: PathBuf,
    id: i32,
    /// The file, that mapped, and the attachment; what is open goes before the segment.
    open: Option<(File, Option<Memory>, Memory)>,
    bytes: Vec<u8>,
}

impl<const PASSED: bool> Segment<PASSED> {
    /// Makes a segment, attaches it, opens and maps its file.
    fn make(mount: PathBuf, make: &Make) -> Result<Self, TestCaseError> {
        let path = mount.join(SEGMENT);
        let create = || open(&path, libc::O_RDWR | libc::O_CREAT).unwrap();
        let bytes = match make {
            Make::C(size) => {
                sys::segment(KEY, *size, libc::IPC_CREAT | libc::IPC_EXCL | 0o600).unwrap();
                vec![0; *size]
            }
            Make::Create(size) => {
                let line = format!("{SEGMENT} size={size}\n");
                assert_eq!(write(&mount.join("ctl/create"), &line), Ok(line.len()));
                vec![0; *size]
            }
            Make::Touch => {
                create();
                vec![0; 4096]
            }
            Make::Truncate(size) => {
                create().set_len(*size as u64).unwrap();
                vec![0; *size]
            }
            Make::Write(at, data) => {
                let data = data.bytes();
                same("first written", write_at(&create(), *at, &data), Ok(data.len()))?;
                [&vec![0; *at], &data[..]].concat()
            }
        };
        let id = sys::segment(KEY, 0, 0).unwrap();
        let file = open(&path, libc::O_RDWR).unwrap();
        let mapped_file = map(&file, bytes.len(), PASSED);
        let mapped = Memory::attach(id, bytes.len()).unwrap();
        Ok(Self { mount, id, open: Some((file, mapped_file, mapped)), bytes })
    }

    fn path(&self) -> PathBuf {
        self.mount.join(SEGMENT)
    }

    /// The file, that mapped, where it can be, and the attachment.
    fn open(&self) -> (&File, &Memory, &Memory) {
        let (file, mapped_file, mapped) = self.open.as_ref().unwrap();
        (file, mapped_file.as_ref().unwrap_or(mapped), mapped)
    }

    /// What is written through the mount: as much as there is room for.
    fn put(&mut self, at: usize, data: &[u8]) -> Got<usize> {
        let room = self.bytes.len().saturating_sub(at);
        if room == 0 && !data.is_empty() {
            return Err(Errno::ENOSPC);
        }
        let data = &data[..data.len().min(room)];
        self.bytes.iter_mut().skip(at).zip(data).for_each(|(to, from)| *to = *from);
        Ok(data.len())
    }
}

impl<const PASSED: bool> Drop for Segment<PASSED> {
    fn drop(&mut self) {
        self.open = None;
        let _ = sys::remove_segment(self.id);
    }
}

impl<const PASSED: bool> Model for Segment<PASSED> {
    type Step = SegmentStep;

    const ARGUMENTS: &'static [&'static str] = arguments(PASSED);

    fn steps() -> BoxedStrategy<SegmentStep> {
        let some = || size().prop_map(|size| size.max(1));
        let content = fill().prop_filter("something", |fill| fill.length > 0);
        let make = prop_oneof![
            some().prop_map(Make::C),
            some().prop_map(Make::Create),
            Just(Make::Touch),
            some().prop_map(Make::Truncate),
            (size(), content).prop_map(|(at, fill)| Make::Write(at, fill)),
        ];
        prop_oneof![
            8 => (way(), size(), fill())
                .prop_map(|(way, at, data)| SegmentStep::Write(way, at, data)),
            1 => fill().prop_map(SegmentStep::Append),
            4 => (way(), size(), size())
                .prop_map(|(way, at, length)| SegmentStep::Read(way, at, length)),
            1 => prop::option::of(size()).prop_map(SegmentStep::Truncate),
            2 => (by(), make).prop_map(|(by, make)| SegmentStep::Renew(by, make)),
        ]
        .boxed()
    }

    fn new(world: &World) -> Self {
        Self::make(world.path(), &Make::C(5000)).unwrap()
    }

    fn step(&mut self, step: &SegmentStep) -> Outcome {
        let path = self.path();
        match step {
            SegmentStep::Write(Way::Open, at, data) => {
                let done = write_at(self.open().0, *at, &data.bytes());
                same("written", done, self.put(*at, &data.bytes()))
            }
            SegmentStep::Write(Way::File, at, data) => {
                let data = &data.bytes();
                let done = open(&path, libc::O_WRONLY).and_then(|file| write_at(&file, *at, data));
                same("written", done, self.put(*at, data))
            }
            SegmentStep::Write(way, at, data) => {
                let room = self.bytes.len().saturating_sub(*at);
                let data = &data.bytes()[..data.length.min(room)];
                if !data.is_empty() {
                    let (_, mapped_file, mapped) = self.open();
                    let memory = if let Way::MappedFile = way { mapped_file } else { mapped };
                    memory.write(*at, data);
                    self.put(*at, data).unwrap();
                }
                Ok(())
            }
            SegmentStep::Append(data) => {
                let data = &data.bytes();
                let done = open(&path, libc::O_WRONLY | libc::O_APPEND)
                    .and_then(|file| write_at(&file, 0, data));
                same("appended", done, self.put(self.bytes.len(), data))
            }
            SegmentStep::Read(way, at, length) => {
                let (file, mapped_file, mapped) = self.open();
                let all = self.bytes.len();
                let done = match way {
                    Way::Open => read_at(file, *at, *length),
                    Way::File => {
                        open(&path, libc::O_RDONLY).and_then(|file| read_at(&file, *at, *length))
                    }
                    Way::MappedFile => Ok(part(&mapped_file.read(all), *at, *length)),
                    Way::C | Way::Mapped => Ok(part(&mapped.read(all), *at, *length)),
                };
                same_bytes("read", done, &part(&self.bytes, *at, *length))
            }
            SegmentStep::Truncate(size) => {
                let size = size.unwrap_or(self.bytes.len());
                let fits = size == self.bytes.len();
                let done = nix::unistd::truncate(&path, size as i64);
                same("truncated", done, if fits { Ok(()) } else { Err(Errno::EINVAL) })
            }
            SegmentStep::Renew(by, make) => {
                match by {
                    By::C => sys::remove_segment(self.id).unwrap(),
                    By::Mount => fs::remove_file(&path).unwrap(),
                }
                // What is open still goes on.
                same_bytes("removed", read_at(self.open().0, 0, 2 * MOST), &self.bytes)?;
                let new = Self::make(self.mount.clone(), make)?;
                drop(std::mem::replace(self, new));
                Ok(())
            }
        }
    }

    fn compare(&self) -> Outcome {
        let (file, mapped_file, mapped) = self.open();
        let path = self.path();
        let fresh = open(&path, libc::O_RDONLY).and_then(|file| read_at(&file, 0, 2 * MOST));
        same_bytes("a file opened now", fresh, &self.bytes)?;
        same_bytes("the open file", read_at(file, 0, 2 * MOST), &self.bytes)?;
        same_bytes("attached", Ok(mapped.read(self.bytes.len())), &self.bytes)?;
        same_bytes("the file mapped", Ok(mapped_file.read(self.bytes.len())), &self.bytes)?;
        let sizes = [
            fs::metadata(&path).map(|stat| stat.size()).ok(),
            file.metadata().map(|stat| stat.size()).ok(),
            sys::segment_stat(self.id).map(|segment| segment.shm_segsz as u64).ok(),
            status(&self.mount.join("ctl").join(SEGMENT).join("status"))
                .ok()
                .and_then(|status| status.get("size")?.parse().ok()),
        ];
        let length = self.bytes.len() as u64;
        same("stat, fstat, C's stat, status", sizes, [Some(length); 4])
    }
}
