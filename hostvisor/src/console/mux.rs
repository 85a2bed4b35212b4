//! The console multiplexer: whose output is shown, who gets what is typed.

use super::Output;
use crate::log::{HostLog, Kind};
use crate::ring::Ring;
use crate::shell::editor::{Editor, TAB};
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// Ctrl-]: leaves a guest's console.
pub const ESCAPE: u8 = 0x1d;
/// Bytes kept of each VM's output.
pub const LOG_CAPACITY: usize = 64 << 10;
/// Typed bytes that wait for a VM; more are dropped.
pub const INPUT_CAPACITY: usize = 4 << 10;

/// What a typed byte leads to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Nothing more.
    None,
    /// Bytes wait for this VM.
    Guest(usize),
    /// A shell command to run, with the console's lock released; then
    /// [`Console::command_done`].
    Command(String),
}

/// Whose console is attached when the machine starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum First {
    /// Nobody's: the shell.
    Shell,
    /// That of the VM that starts first.
    Any,
    /// That of this VM.
    Vm(usize),
}

/// Who is at the console.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum View {
    /// The machine boots: only the host log is shown.
    Boot,
    /// The shell; its prompt is there.
    Prompt,
    /// The shell; a command runs.
    Command,
    /// A guest.
    Guest(usize),
}

#[derive(Debug)]
struct VmConsole {
    name: String,
    log: Ring,
    input: VecDeque<u8>,
}

/// Multiplexes guests and shell on one terminal.
#[derive(Debug)]
pub struct Console {
    vms: Vec<VmConsole>,
    first: First,
    view: View,
    /// True between [`Event::Command`] and [`Console::command_done`].
    command: bool,
    editor: Editor,
    /// Typed while the machine boots: for the VM that is attached first.
    early: VecDeque<u8>,
    /// The cursor is in the first column.
    fresh_line: bool,
    /// Position in the host log up to which lines were shown, or passed over.
    shown: u64,
}

impl Default for Console {
    fn default() -> Self {
        Self::new()
    }
}

impl Console {
    /// A console of a machine that boots and has no VMs yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            vms: Vec::new(),
            first: First::Shell,
            view: View::Boot,
            command: false,
            editor: Editor::new(),
            early: VecDeque::new(),
            fresh_line: true,
            shown: 0,
        }
    }

    /// Names the VMs. Their place in `names` is what the other calls take.
    pub fn define(&mut self, names: Vec<String>, first: First) {
        let console = |name| VmConsole {
            name,
            log: Ring::new(LOG_CAPACITY),
            input: VecDeque::new(),
        };
        self.vms = names.into_iter().map(console).collect();
        self.first = first;
    }

    /// The attached VM.
    #[must_use]
    pub const fn attached(&self) -> Option<usize> {
        match self.view {
            View::Guest(vm) => Some(vm),
            View::Boot | View::Prompt | View::Command => None,
        }
    }

    /// Boot is over: prompts, unless a VM is attached or may still become the first.
    pub fn start_shell(&mut self, out: &mut dyn Output) {
        if self.view == View::Boot && self.first == First::Shell {
            self.prompt(out);
        }
    }

    /// Attaches VM `vm` and replays its log. False if there is no such VM.
    pub fn attach(&mut self, vm: usize, out: &mut dyn Output) -> bool {
        let Some(target) = self.vms.get_mut(vm) else {
            return false;
        };
        if self.view == View::Boot {
            target.input.append(&mut self.early);
        }
        let mut notice = format!("[host] console of {}, Ctrl-] leaves it\r\n", target.name);
        let lost = target.log.start();
        if lost != 0 {
            notice.push_str(&format!("[host] {lost} bytes before these are lost\r\n"));
        }
        self.view = View::Guest(vm);
        self.first = First::Shell;
        self.new_line(out);
        self.emit(notice.as_bytes(), out);
        if let Some(target) = self.vms.get(vm) {
            let (older, newer) = target.log.pieces();
            out.write(older);
            out.write(newer);
            if let Some(last) = newer.last().or(older.last()) {
                self.fresh_line = *last == b'\n';
            }
        }
        true
    }

    /// Leaves the attached console for the shell.
    pub fn detach(&mut self, out: &mut dyn Output) {
        if let View::Guest(_) | View::Boot = self.view {
            self.first = First::Shell;
            self.early = VecDeque::new();
            self.prompt(out);
        }
    }

    /// VM `vm` was started: drops what was typed for it before, attaches it if it is the first.
    pub fn vm_started(&mut self, vm: usize, out: &mut dyn Output) {
        if let Some(target) = self.vms.get_mut(vm) {
            target.input.clear();
        }
        if self.view == View::Boot && [First::Any, First::Vm(vm)].contains(&self.first) {
            self.attach(vm, out);
        }
    }

    /// VM `vm` ended: leaves its console, or no longer waits for it.
    pub fn vm_ended(&mut self, vm: usize, out: &mut dyn Output) {
        if self.attached() == Some(vm) || (self.view == View::Boot && self.first == First::Vm(vm)) {
            self.detach(out);
        }
    }

    /// Nothing that was to start is still on its way: stops waiting for the first VM.
    pub fn settled(&mut self, out: &mut dyn Output) {
        if self.view == View::Boot {
            self.detach(out);
        }
    }

    /// A byte was typed.
    pub fn input(&mut self, byte: u8, out: &mut dyn Output) -> Event {
        match self.view {
            View::Boot | View::Guest(_) if byte == ESCAPE => self.detach(out),
            View::Boot => {
                if self.first != First::Shell {
                    enqueue(&mut self.early, byte);
                }
            }
            View::Guest(vm) => {
                if let Some(target) = self.vms.get_mut(vm) {
                    enqueue(&mut target.input, byte);
                    return Event::Guest(vm);
                }
            }
            // The command that runs has no input.
            View::Command => {}
            View::Prompt => {
                let names: Vec<_> = match byte {
                    TAB => self.vms.iter().map(|vm| vm.name.as_str()).collect(),
                    _ => Vec::new(),
                };
                let mut tracked = Tracked {
                    out,
                    fresh_line: &mut self.fresh_line,
                };
                match self.editor.input(byte, &names, &mut tracked) {
                    Some(line) if line.trim().is_empty() => self.prompt(out),
                    Some(line) => {
                        self.command = true;
                        self.view = View::Command;
                        return Event::Command(line);
                    }
                    None => {}
                }
            }
        }
        Event::None
    }

    /// What the running command prints: text with line feeds.
    pub fn command_output(&mut self, text: &[u8], out: &mut dyn Output) {
        for line in text.split_inclusive(|&b| b == b'\n') {
            match line.strip_suffix(b"\n") {
                Some(line) => {
                    self.emit(line, out);
                    self.emit(b"\r\n", out);
                }
                None => self.emit(line, out),
            }
        }
    }

    /// The command is done.
    pub fn command_done(&mut self, out: &mut dyn Output) {
        self.command = false;
        if self.view == View::Command {
            self.prompt(out);
        }
    }

    /// VM `vm` wrote `bytes`: always kept, shown as they are if it is attached.
    pub fn guest_output(&mut self, vm: usize, bytes: &[u8], out: &mut dyn Output) {
        if let Some(source) = self.vms.get_mut(vm) {
            source.log.push(bytes);
            if self.view == View::Guest(vm) {
                self.emit(bytes, out);
            }
        }
    }

    /// The next byte typed for VM `vm`.
    pub fn take_input(&mut self, vm: usize) -> Option<u8> {
        self.vms.get_mut(vm)?.input.pop_front()
    }

    /// Shows the host log's lines since the last call, those that matter here, each on a line of its
    /// own; the others stay in the log only. Answers how far it got: lines that come meanwhile are for the next time.
    pub fn show_log(&mut self, log: &HostLog, out: &mut dyn Output) -> u64 {
        let mut any = false;
        let end = log.end();
        while self.shown < end
            && let Some(line) = log.next(&mut self.shown)
        {
            let label = match (line.kind(), self.view) {
                (Kind::Debug, _) | (Kind::Info | Kind::Warning, View::Guest(_)) => continue,
                (Kind::Verdict | Kind::Info, _) => "",
                (Kind::Warning, _) => "warning: ",
                (Kind::Error, _) => "error: ",
            };
            self.new_line(out);
            let (_, text) = line.parts();
            for part in ["[host] ", label, text, "\r\n"] {
                self.emit(part.as_bytes(), out);
            }
            any = true;
        }
        if any && self.view == View::Prompt {
            let mut tracked = Tracked {
                out,
                fresh_line: &mut self.fresh_line,
            };
            self.editor.redraw(&mut tracked);
        }
        self.shown
    }

    /// Turns to the shell, where its prompt is due now or when the running command is done.
    fn prompt(&mut self, out: &mut dyn Output) {
        self.new_line(out);
        if self.command {
            self.view = View::Command;
        } else {
            self.view = View::Prompt;
            let mut tracked = Tracked {
                out,
                fresh_line: &mut self.fresh_line,
            };
            self.editor.prompt(&mut tracked);
        }
    }

    fn new_line(&mut self, out: &mut dyn Output) {
        if !self.fresh_line {
            self.emit(b"\r\n", out);
        }
    }

    fn emit(&mut self, bytes: &[u8], out: &mut dyn Output) {
        Tracked {
            out,
            fresh_line: &mut self.fresh_line,
        }
        .write(bytes);
    }
}

/// An output that knows whether its cursor is in the first column.
struct Tracked<'a> {
    out: &'a mut dyn Output,
    fresh_line: &'a mut bool,
}

impl Output for Tracked<'_> {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(&last) = bytes.last() {
            *self.fresh_line = last == b'\n';
            self.out.write(bytes);
        }
    }
}

/// Appends `byte`, if there is room and memory for it.
fn enqueue(queue: &mut VecDeque<u8>, byte: u8) {
    if queue.len() < INPUT_CAPACITY && queue.try_reserve(1).is_ok() {
        queue.push_back(byte);
    }
}

#[cfg(test)]
#[path = "mux_tests.rs"]
mod tests;
