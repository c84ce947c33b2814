//! Semaphores: numbers.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process;

use nix::errno::Errno;
use proptest::collection::vec;
use proptest::prelude::*;

use super::sys::{self, Got};
use super::{By, Model, Outcome, by, cat, errno, open, same, status, write};
use crate::common::{World, eventually};

/// How an operation that does not wait is done.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    C,
    /// The object's file, open with `O_NONBLOCK`.
    File,
    /// The same, willing to wait; only where it is known that it need not.
    Waiting,
    Try,
}

fn way() -> impl Strategy<Value = Way> {
    prop_oneof![Just(Way::C), Just(Way::File), Just(Way::Waiting), Just(Way::Try)]
}

/// One write, which `done` says the outcome of.
fn written(object: &(PathBuf, PathBuf), way: Way, text: &str, may_wait: bool) -> Got<()> {
    let (file, control) = object;
    let done = match way {
        Way::Try => write(&control.join("try"), text),
        Way::Waiting if may_wait => {
            fs::write(file, text).map(|()| text.len()).map_err(|error| errno(&error))
        }
        _ => write(file, text),
    };
    done.map(|count| assert_eq!(count, text.len(), "one write is one operation"))
}

/// The object's file and its directory below ctl/.
fn places(mount: &Path, path: &str) -> (PathBuf, PathBuf) {
    (mount.join(path), mount.join("ctl").join(path))
}

/// Takes one by `tryhold`.
fn hold(place: &Path) -> Got<File> {
    open(place, libc::O_RDONLY)
}

/// Texts that are no operation, on a set or on a semaphore.
fn malformed() -> impl Strategy<Value = String> {
    let wrong = [
        "x", "+", "-", "1 2 3", "+-1", "=", "1 =", "0 +1,", "0 +1 1", "1.5", "0x1", "++1", "\0",
        " ",
    ];
    prop::sample::select(wrong.to_vec()).prop_map(|text| format!("{text}\n"))
}

/// The most that a semaphore of a set takes.
const SET_MAX: i64 = 32767;
const SEMAPHORES: usize = 3;
const KEY: i32 = 0x99;
const SET: &str = "sysv/sem/0x00000099";

#[derive(Clone, Debug)]
pub enum SetStep {
    Operate(Way, Vec<(u16, i16)>),
    SetAll(Way, Vec<u16>),
    SetOne(Way, u16, u16),
    Malformed(Way, String),
    /// Takes one by `tryhold`, gives one back.
    Hold(u16),
    Release(prop::sample::Index),
    /// Removes it and makes it anew.
    Renew(By, By),
}

/// A System V semaphore set.
pub struct Set {
    places: (PathBuf, PathBuf),
    create: PathBuf,
    native: sys::Set,
    values: Vec<i64>,
    /// Which ones have been used.
    used: Vec<bool>,
    held: Vec<(u16, File)>,
}

impl Set {
    fn make(create: &Path, by: By) -> sys::Set {
        match by {
            By::C => sys::Set::get(KEY, SEMAPHORES, libc::IPC_CREAT | libc::IPC_EXCL | 0o600),
            By::Mount => {
                let line = format!("{SET} nsems={SEMAPHORES}\n");
                assert_eq!(write(create, &line), Ok(line.len()));
                sys::Set::get(KEY, SEMAPHORES, 0)
            }
        }
        .unwrap()
    }

    /// What `semop(2)` has to give.
    fn operate(&mut self, steps: &[(u16, i16)]) -> Got<()> {
        if steps.iter().any(|(index, _)| usize::from(*index) >= SEMAPHORES) {
            return Err(Errno::EFBIG);
        }
        let mut values = self.values.clone();
        for (index, change) in steps {
            let value = &mut values[usize::from(*index)];
            if *change == 0 && *value != 0 {
                return Err(Errno::EAGAIN);
            }
            *value += i64::from(*change);
            match *value {
                ..0 => return Err(Errno::EAGAIN),
                0..=SET_MAX => {}
                _ => return Err(Errno::ERANGE),
            }
        }
        self.values = values;
        steps.iter().for_each(|(index, _)| self.used[usize::from(*index)] = true);
        Ok(())
    }

    fn set_all(&mut self, values: &[u16]) -> Got<()> {
        if values.iter().any(|value| i64::from(*value) > SET_MAX) {
            return Err(Errno::ERANGE);
        }
        if values.len() != SEMAPHORES {
            return Err(Errno::EINVAL);
        }
        self.values = values.iter().copied().map(i64::from).collect();
        self.used = vec![true; SEMAPHORES];
        Ok(())
    }

    fn set_one(&mut self, index: u16, value: u16) -> Got<()> {
        if i64::from(value) > SET_MAX {
            return Err(Errno::ERANGE);
        }
        let place = self.values.get_mut(usize::from(index)).ok_or(Errno::EINVAL)?;
        *place = value.into();
        self.used[usize::from(index)] = true;
        Ok(())
    }

    fn as_c_has_it(&self) -> Got<Vec<i64>> {
        let values = self.native.values(SEMAPHORES)?;
        Ok(values.into_iter().map(i64::from).collect())
    }
}

impl Drop for Set {
    fn drop(&mut self) {
        let _ = self.native.remove();
    }
}

impl Model for Set {
    type Step = SetStep;

    fn steps() -> BoxedStrategy<SetStep> {
        let index = || prop_oneof![8 => 0..SEMAPHORES as u16, 1 => Just(SEMAPHORES as u16)];
        let value = || prop_oneof![8 => 0..5_u16, 1 => 32766..32770_u16];
        let change = prop_oneof![8 => -2..4_i16, 1 => 32766..=32767_i16, 1 => -32767..-32765_i16];
        let count = prop_oneof![8 => Just(SEMAPHORES), 1 => 1..6_usize];
        prop_oneof![
            12 => (way(), vec((index(), change), 1..4))
                .prop_map(|(way, steps)| SetStep::Operate(way, steps)),
            2 => (way(), count.prop_flat_map(move |count| vec(value(), count)))
                .prop_map(|(way, values)| SetStep::SetAll(way, values)),
            2 => (way(), index(), value())
                .prop_map(|(way, index, value)| SetStep::SetOne(way, index, value)),
            1 => (way(), malformed()).prop_map(|(way, text)| SetStep::Malformed(way, text)),
            2 => index().prop_map(SetStep::Hold),
            2 => any::<prop::sample::Index>().prop_map(SetStep::Release),
            1 => (by(), by()).prop_map(|(by, make)| SetStep::Renew(by, make)),
        ]
        .boxed()
    }

    fn new(world: &World) -> Self {
        let create = world.path().join("ctl/create");
        Self {
            places: places(&world.path(), SET),
            native: Self::make(&create, By::C),
            create,
            values: vec![0; SEMAPHORES],
            used: vec![false; SEMAPHORES],
            held: Vec::new(),
        }
    }

    fn step(&mut self, step: &SetStep) -> Outcome {
        match step {
            SetStep::Operate(way, steps) => {
                let expected = self.operate(steps);
                let one = |(index, change): &(u16, i16)| match change {
                    1.. => format!("{index} +{change}"),
                    _ => format!("{index} {change}"),
                };
                let text = steps.iter().map(one).collect::<Vec<_>>().join(", ");
                let done = match way {
                    Way::C => self.native.operate(steps),
                    way => written(&self.places, *way, &text, expected != Err(Errno::EAGAIN)),
                };
                same("operated", done, expected)
            }
            SetStep::SetAll(way, values) => {
                let expected = self.set_all(values);
                let text: Vec<_> = values.iter().map(ToString::to_string).collect();
                let done = match way {
                    // C does not tell how many there are.
                    Way::C if values.len() == SEMAPHORES => self.native.set_all(values),
                    way => written(&self.places, *way, &format!("= {}\n", text.join(" ")), true),
                };
                same("set", done, expected)
            }
            SetStep::SetOne(way, index, value) => {
                let expected = self.set_one(*index, *value);
                let done = match way {
                    Way::C => self.native.set_one(*index, i32::from(*value)),
                    way => written(&self.places, *way, &format!("{index} = {value}\n"), true),
                };
                same("set one", done, expected)
            }
            SetStep::Malformed(way, text) => {
                let done = written(&self.places, *way, text, true);
                same("malformed", done, Err(Errno::EINVAL))
            }
            SetStep::Hold(index) => {
                let done = hold(&self.places.1.join(format!("tryhold/{index}")));
                let expected = self.operate(&[(*index, -1)]);
                same("held", done.as_ref().map(drop).map_err(|errno| *errno), expected)?;
                self.held.extend(done.ok().map(|file| (*index, file)));
                Ok(())
            }
            SetStep::Release(which) => {
                // At the highest value nothing shows that it has been given back, and had no room.
                let full = |(index, _): &(u16, File)| self.values[usize::from(*index)] == SET_MAX;
                if self.held.is_empty() || self.held.iter().any(full) {
                    return Ok(());
                }
                let (index, file) = self.held.swap_remove(which.index(self.held.len()));
                drop(file);
                // Closing a file is not waited for by the C calls.
                let _ = self.operate(&[(index, 1)]);
                eventually("it is given back", || self.as_c_has_it().as_ref() == Ok(&self.values));
                Ok(())
            }
            SetStep::Renew(by, make) => {
                match by {
                    By::C => self.native.remove().unwrap(),
                    By::Mount => fs::remove_file(&self.places.0).unwrap(),
                }
                self.native = Self::make(&self.create, *make);
                // What is given back now is given back to nobody.
                self.held.clear();
                self.values = vec![0; SEMAPHORES];
                self.used = vec![false; SEMAPHORES];
                Ok(())
            }
        }
    }

    fn compare(&self) -> Outcome {
        same("as C sees it", self.as_c_has_it(), Ok(self.values.clone()))?;
        let text = |numbers: Vec<i64>| -> String {
            numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        let values = text(self.values.clone());
        same("cat", cat(&self.places.0), Ok(format!("{values}\n")))?;
        let pids = self.used.iter().map(|used| if *used { i64::from(process::id()) } else { 0 });
        let status = status(&self.places.1.join("status")).unwrap_or_default();
        let field = |name: &str| status.get(name).map(|text| text.replace('\'', ""));
        let expected = [SEMAPHORES.to_string(), values, text(pids.collect())].map(Some);
        same("status", ["nsems", "semval", "sempid"].map(field), expected)
    }
}

/// `SEM_VALUE_MAX`.
const MAX: u32 = i32::MAX as u32;

#[derive(Clone, Debug)]
pub enum Step {
    /// `+N`, `-N` and `N`; C does one at a time.
    Post(Way, u32),
    Take(Way, u32),
    Set(u32),
    Malformed(Way, String),
    Truncate(u32),
    Hold,
    Release(prop::sample::Index),
    Rename,
    /// Removes it and makes it anew.
    Renew(By, By, u32),
}

/// A POSIX semaphore.
pub struct Named {
    mount: PathBuf,
    name: &'static str,
    native: sys::Semaphore,
    value: u32,
    held: Vec<File>,
}

impl Named {
    fn places(&self) -> (PathBuf, PathBuf) {
        places(&self.mount, &format!("sem/{}", self.name))
    }

    fn c_name(&self) -> String {
        format!("/{}", self.name)
    }

    fn add(&mut self, number: u32) -> Got<()> {
        let value = self.value.checked_add(number).filter(|value| *value <= MAX);
        self.value = value.ok_or(Errno::EOVERFLOW)?;
        Ok(())
    }

    fn take(&mut self, number: u32) -> Got<()> {
        self.value = self.value.checked_sub(number).ok_or(Errno::EAGAIN)?;
        Ok(())
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = sys::Semaphore::unlink(&self.c_name());
    }
}

impl Model for Named {
    type Step = Step;

    fn steps() -> BoxedStrategy<Step> {
        let number = || prop_oneof![6 => 0..4_u32, 1 => MAX - 1..=MAX];
        prop_oneof![
            5 => (way(), number()).prop_map(|(way, number)| Step::Post(way, number)),
            5 => (way(), number()).prop_map(|(way, number)| Step::Take(way, number)),
            2 => number().prop_map(Step::Set),
            1 => (way(), malformed()).prop_map(|(way, text)| Step::Malformed(way, text)),
            1 => any::<u32>().prop_map(Step::Truncate),
            2 => Just(Step::Hold),
            2 => any::<prop::sample::Index>().prop_map(Step::Release),
            1 => Just(Step::Rename),
            1 => (by(), by(), number()).prop_map(|(by, make, value)| Step::Renew(by, make, value)),
        ]
        .boxed()
    }

    fn new(world: &World) -> Self {
        let native = sys::Semaphore::make("/model", 0o600, 0).unwrap();
        Self { mount: world.path(), name: "model", native, value: 0, held: Vec::new() }
    }

    fn step(&mut self, step: &Step) -> Outcome {
        let places = self.places();
        match step {
            Step::Post(Way::C, _) => {
                let expected = self.add(1);
                same("posted", self.native.post(), expected)
            }
            Step::Post(way, number) => {
                let expected = self.add(*number);
                same("posted", written(&places, *way, &format!("+{number}\n"), true), expected)
            }
            Step::Take(Way::C, _) => {
                let expected = self.take(1);
                same("taken", self.native.try_wait(), expected)
            }
            Step::Take(way, number) => {
                let expected = self.take(*number);
                let done = written(&places, *way, &format!("-{number}\n"), expected.is_ok());
                same("taken", done, expected)
            }
            Step::Set(value) => {
                self.value = *value;
                same("set", written(&places, Way::File, &value.to_string(), true), Ok(()))
            }
            Step::Malformed(way, text) => {
                same("malformed", written(&places, *way, text, true), Err(Errno::EINVAL))
            }
            Step::Truncate(size) => {
                let done = nix::unistd::truncate(&places.0, (*size).into());
                same("truncated", done, Err(Errno::EINVAL))
            }
            Step::Hold => {
                let done = hold(&places.1.join("tryhold"));
                let expected = self.take(1);
                same("held", done.as_ref().map(drop).map_err(|errno| *errno), expected)?;
                self.held.extend(done.ok());
                Ok(())
            }
            Step::Release(which) => {
                // At the highest value nothing shows that it has been given back, and had no room.
                if self.held.is_empty() || self.value == MAX {
                    return Ok(());
                }
                drop(self.held.swap_remove(which.index(self.held.len())));
                // Closing a file is not waited for by the C calls.
                let _ = self.add(1);
                eventually("it is given back", || self.native.value() == Ok(self.value));
                Ok(())
            }
            Step::Rename => {
                self.name = if self.name == "model" { "renamed" } else { "model" };
                fs::rename(&places.0, self.places().0).unwrap();
                Ok(())
            }
            Step::Renew(by, make, value) => {
                match by {
                    By::C => sys::Semaphore::unlink(&self.c_name()).unwrap(),
                    By::Mount => fs::remove_file(&places.0).unwrap(),
                }
                // What is given back now is given back to nobody.
                self.held.clear();
                let made = match make {
                    By::C => sys::Semaphore::make(&self.c_name(), 0o600, *value),
                    By::Mount => {
                        let line = format!("sem/{} value={value}\n", self.name);
                        assert_eq!(write(&self.mount.join("ctl/create"), &line), Ok(line.len()));
                        sys::Semaphore::open(&self.c_name())
                    }
                };
                (self.native, self.value) = (made.unwrap(), *value);
                Ok(())
            }
        }
    }

    fn compare(&self) -> Outcome {
        let (file, control) = self.places();
        same("as C sees it", self.native.value(), Ok(self.value))?;
        let found = sys::Semaphore::open(&self.c_name()).and_then(|found| found.value());
        same("as C finds it", found, Ok(self.value))?;
        same("cat", cat(&file), Ok(format!("{}\n", self.value)))?;
        let status = status(&control.join("status")).unwrap_or_default();
        let field = |name: &str| status.get(name).and_then(|text| text.parse().ok());
        let expected = [Some(self.value), Some(0), Some(self.held.len() as u32)];
        same("status", ["value", "nwaiters", "nholders"].map(field), expected)?;
        let names = fs::read_dir(self.mount.join("sem")).map(|entries| entries.flatten().count());
        same("listed", names.ok(), Some(1))
    }
}
