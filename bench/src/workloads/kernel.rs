//! What the guest's kernel costs: system call, context switch, process creation.

use super::threads::pin;
use super::{Built, Context, Definition, Planned};
use crate::harness::{Clock, Halt, Kernel, Scale};
use crate::sys::fork::fork_exec_wait;
use reports::schema::Better;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{read, write};
use rustix::pipe::pipe;
use std::ffi::CString;
use std::fs::File;
use std::hint::black_box;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::atomic::Ordering;

pub(super) fn plan<'a>(_context: &Context<'a>) -> Vec<Planned<'a>> {
    vec![getppid(), switch(false), switch(true), fork_exec()]
}

fn getppid<'a>() -> Planned<'a> {
    let definition = Definition {
        id: "kernel.getppid".to_owned(),
        name: "System call (getppid)".to_owned(),
        unit: "ns",
        better: Better::Lower,
        measures: "entry into the guest's kernel and back",
        pitfalls: "needs no VM exit under hardware virtualisation: shows the CPU mitigations of the guest's kernel",
        reference: "lmbench lat_syscall null",
    };
    let build = |_: &Context<'a>| {
        Ok(Built {
            kernel: Box::new(|iterations, _| {
                let start = Clock::now();
                for _ in 0..iterations {
                    black_box(rustix::process::getppid());
                }
                Ok(start.elapsed())
            }),
            scale: Scale::Each(1e9),
            method: "getppid system call, one thread".to_owned(),
        })
    };
    Planned {
        definition,
        weight: 0.7,
        build: Box::new(build),
    }
}

fn switch<'a>(across: bool) -> Planned<'a> {
    let definition = Definition {
        id: if across {
            "kernel.switch.two-cpus"
        } else {
            "kernel.switch.one-cpu"
        }
        .to_owned(),
        name: if across {
            "Wake-up across CPUs (pipe)"
        } else {
            "Context switch on one CPU (pipe)"
        }
        .to_owned(),
        unit: "us",
        better: Better::Lower,
        measures: "half a round trip of one byte through two pipes between two pinned threads",
        pitfalls: "across CPUs it holds an inter-processor interrupt and a wake-up from idle: VM exits, and the idle policy of host and guest",
        reference: "lmbench lat_ctx, lat_pipe; perf bench sched pipe",
    };
    let build = move |context: &Context<'a>| {
        let first = context.cpus[0];
        let second = if across {
            context.cpus.get(1).copied()
        } else {
            Some(first)
        };
        let second = second.ok_or_else(|| Halt::Skip("needs two CPUs".to_owned()))?;
        let place = if across { "on two CPUs" } else { "on one CPU" };
        Ok(Built {
            kernel: ping_pong(first, second),
            scale: Scale::Each(1e6 / 2.0),
            method: format!("1 byte through two pipes, two threads pinned {place}, half a round trip"),
        })
    };
    Planned {
        definition,
        weight: 1.0,
        build: Box::new(build),
    }
}

fn ping_pong<'a>(first: usize, second: usize) -> Kernel<'a> {
    Box::new(move |iterations, _| {
        let (ping_out, ping_in) = pipe().map_err(|error| Halt::failed("pipe", error))?;
        let (pong_out, pong_in) = pipe().map_err(|error| Halt::failed("pipe", error))?;
        let elapsed = std::thread::scope(|scope| {
            scope.spawn(move || {
                pin(second);
                let mut byte = [0];
                // Ends with the pipe: the other side drops its end when it is done.
                while read(&ping_out, &mut byte).is_ok_and(|n| n == 1) && write(&pong_in, &byte).is_ok() {}
            });
            let driver = scope.spawn(move || {
                pin(first);
                let mut byte = [0];
                let start = Clock::now();
                for _ in 0..iterations {
                    write(&ping_in, &byte)?;
                    read(&pong_out, &mut byte)?;
                }
                Ok::<_, rustix::io::Errno>(start.elapsed())
            });
            driver.join()
        });
        elapsed
            .map_err(|_| Halt::Skip("a thread panicked".to_owned()))?
            .map_err(|error| Halt::failed("pipe", error))
    })
}

fn fork_exec<'a>() -> Planned<'a> {
    let definition = Definition {
        id: "kernel.fork-exec".to_owned(),
        name: "Process creation (fork, exec, wait)".to_owned(),
        unit: "us",
        better: Better::Lower,
        measures: "fork of this process, execve of a static program of 132 bytes, its exit, wait",
        pitfalls: "heavy on page tables: costly without nested paging; grows with the memory that the parent has mapped",
        reference: "lmbench lat_proc exec",
    };
    let build = |context: &Context<'a>| {
        let (program, place) = TinyProgram::ready(&context.folder)?;
        let cancel = context.cancel;
        Ok(Built {
            kernel: Box::new(move |iterations, _| {
                let start = Clock::now();
                for _ in 0..iterations {
                    program.run()?;
                    if cancel.load(Ordering::Relaxed) {
                        return Err(Halt::Cancelled);
                    }
                }
                Ok(start.elapsed())
            }),
            scale: Scale::Each(1e6),
            method: format!("fork, execve of a static 132-byte ELF file {place}, waitpid"),
        })
    };
    Planned {
        definition,
        weight: 1.0,
        build: Box::new(build),
    }
}

/// A program that only ends, the same on every machine, executed through `/proc/self/fd`. It lies in memory (memfd, Linux
/// 3.17) or, where that is missing or forbidden, in a file whose name is removed at once.
struct TinyProgram {
    path: CString,
    _open: File,
}

impl TinyProgram {
    fn run(&self) -> Result<(), Halt> {
        fork_exec_wait(&self.path).map_err(|error| Halt::failed("fork and exec", error))
    }

    /// One that has run, and where it lies.
    fn ready(folder: &Path) -> Result<(Self, &'static str), Halt> {
        if let Some(program) = Self::in_memory().filter(|program| program.run().is_ok()) {
            return Ok((program, "in memory"));
        }
        let program = Self::in_folder(folder)?;
        program.run()?;
        Ok((program, "in a folder"))
    }

    fn in_memory() -> Option<Self> {
        // Kernels before 6.3 don't know EXEC, later ones may refuse memory that was not asked for with it.
        let made = [MemfdFlags::CLOEXEC | MemfdFlags::EXEC, MemfdFlags::CLOEXEC]
            .into_iter()
            .find_map(|flags| memfd_create("esxodus-exec", flags).ok())?;
        let mut writer = File::from(made);
        writer.write_all(&tiny_elf()).ok()?;
        let open = File::open(fd_path(&writer)).ok()?;
        Some(Self::opened(open))
    }

    fn in_folder(folder: &Path) -> Result<Self, Halt> {
        let name = folder.join(format!(".esxodus-exec-{}", std::process::id()));
        let failed = |error| Halt::failed("cannot write a program into the folder", error);
        let mut options = std::fs::OpenOptions::new();
        let mut writer = options
            .write(true)
            .create_new(true)
            .mode(0o700)
            .open(&name)
            .map_err(failed)?;
        let open = File::open(&name);
        std::fs::remove_file(&name).map_err(failed)?;
        writer.write_all(&tiny_elf()).map_err(failed)?;
        Ok(Self::opened(open.map_err(failed)?))
    }

    /// No writer may be left when it is executed (ETXTBSY): the callers' end here, with them.
    fn opened(open: File) -> Self {
        let path = CString::new(fd_path(&open)).expect("no NUL in digits");
        Self { path, _open: open }
    }
}

fn fd_path(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// ELF64 header, one program header, and `xor edi,edi; mov eax,60; syscall` (exit(0), System V ABI, Linux x86-64).
fn tiny_elf() -> Vec<u8> {
    const CODE: [u8; 9] = [0x31, 0xff, 0xb8, 60, 0, 0, 0, 0x0f, 0x05];
    const LOAD: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let mut elf = Vec::with_capacity(132);
    elf.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    elf.extend_from_slice(&2_u16.to_le_bytes()); // ET_EXEC
    elf.extend_from_slice(&62_u16.to_le_bytes()); // EM_X86_64
    elf.extend_from_slice(&1_u32.to_le_bytes());
    elf.extend_from_slice(&(LOAD + HEADERS).to_le_bytes()); // entry
    elf.extend_from_slice(&64_u64.to_le_bytes()); // program headers
    elf.extend_from_slice(&0_u64.to_le_bytes()); // no section headers
    elf.extend_from_slice(&0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 64, 0, 0] {
        elf.extend_from_slice(&half.to_le_bytes());
    }
    elf.extend_from_slice(&1_u32.to_le_bytes()); // PT_LOAD
    elf.extend_from_slice(&5_u32.to_le_bytes()); // read, execute
    for word in [0, LOAD, LOAD, 132, 132, 0x1000] {
        elf.extend_from_slice(&word.to_le_bytes());
    }
    elf.extend_from_slice(&CODE);
    elf.resize(132, 0);
    elf
}

#[cfg(test)]
mod tests {
    use super::TinyProgram;

    #[test]
    fn tiny_program_runs_from_a_folder_and_leaves_no_name_behind() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let program = TinyProgram::in_folder(folder.path()).expect("it can be written");
        assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 0);
        program.run().expect("it ends with 0");
    }

    #[test]
    fn tiny_program_in_memory_needs_no_writable_folder() {
        let Some(_) = TinyProgram::in_memory().filter(|program| program.run().is_ok()) else {
            println!("SKIP: this kernel has no executable memfd");
            return;
        };
        let (program, place) = TinyProgram::ready(std::path::Path::new("/nonexistent")).expect("memory does");
        assert_eq!(place, "in memory");
        program.run().expect("it ends with 0");
    }
}
