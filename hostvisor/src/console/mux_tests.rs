use super::*;
use crate::shell::editor::PROMPT;
use alloc::string::ToString;
use proptest::prelude::*;

/// A console and its terminal.
struct Bench {
    console: Console,
    log: HostLog,
    out: Vec<u8>,
}

impl Bench {
    fn new(names: &[&str], first: First) -> Self {
        let mut console = Console::new();
        console.define(names.iter().map(ToString::to_string).collect(), first);
        Self {
            console,
            log: HostLog::new(),
            out: Vec::new(),
        }
    }

    /// Two VMs, at the prompt.
    fn shell() -> Self {
        let mut bench = Self::new(&["web", "db"], First::Shell);
        bench.console.start_shell(&mut bench.out);
        assert_eq!(bench.shown(), PROMPT);
        bench
    }

    /// What the terminal got since the last call.
    fn shown(&mut self) -> String {
        String::from_utf8(core::mem::take(&mut self.out)).unwrap()
    }

    fn type_in(&mut self, text: &[u8]) -> Event {
        let mut last = Event::None;
        for &byte in text {
            last = self.console.input(byte, &mut self.out);
        }
        last
    }

    fn guest(&mut self, vm: usize, text: &[u8]) -> String {
        self.console.guest_output(vm, text, &mut self.out);
        self.shown()
    }

    fn log(&mut self, kind: Kind, text: &str) -> String {
        self.log.push(kind, format_args!("{text}"));
        self.console.show_log(&self.log, &mut self.out);
        self.shown()
    }

    fn attach(&mut self, vm: usize) -> String {
        assert!(self.console.attach(vm, &mut self.out));
        assert_eq!(self.console.attached(), Some(vm));
        self.shown()
    }

    fn input_of(&mut self, vm: usize) -> Vec<u8> {
        core::iter::from_fn(|| self.console.take_input(vm)).collect()
    }
}

const WEB: &str = "[host] console of web, Ctrl-] leaves it\r\n";

#[test]
fn detached_output_is_kept_and_replayed_word_for_word() {
    let mut bench = Bench::shell();
    assert_eq!(bench.guest(0, b"one\ntwo\r\n\x1b[1m"), "");
    assert_eq!(bench.guest(1, b"other"), "");
    assert_eq!(
        bench.attach(0),
        alloc::format!("\r\n{WEB}one\ntwo\r\n\x1b[1m")
    );
    assert_eq!(bench.guest(0, b"three"), "three");
    assert_eq!(bench.guest(1, b"more"), "");
    bench.type_in(&[ESCAPE]);
    assert_eq!(bench.shown(), "\r\ncloister> ");
    assert_eq!(bench.guest(0, b" four"), "");
    assert_eq!(
        bench.attach(0),
        alloc::format!("\r\n{WEB}one\ntwo\r\n\x1b[1mthree four")
    );
}

#[test]
fn what_is_typed_goes_to_the_attached_guest_or_to_the_shell() {
    let mut bench = Bench::shell();
    assert_eq!(
        bench.type_in(b"vm list\r"),
        Event::Command("vm list".into())
    );
    assert_eq!(bench.shown(), "vm list\r\n");
    bench.console.command_output(b"a\nb\n", &mut bench.out);
    bench.console.command_done(&mut bench.out);
    assert_eq!(bench.shown(), "a\r\nb\r\ncloister> ");
    assert_eq!(bench.type_in(b"\r"), Event::None);
    assert_eq!(bench.shown(), "\r\ncloister> ");

    bench.attach(1);
    assert_eq!(bench.type_in(b"ls\r\x03\x00"), Event::Guest(1));
    assert_eq!(bench.shown(), "");
    assert_eq!(bench.type_in(&[ESCAPE]), Event::None);
    assert_eq!(bench.input_of(1), b"ls\r\x03\x00");
    assert_eq!(bench.input_of(0), b"");
}

#[test]
fn a_command_may_attach_and_gets_its_prompt_only_in_the_shell() {
    let mut bench = Bench::shell();
    bench.type_in(b"vm console web\n");
    bench.shown();
    assert_eq!(bench.attach(0), WEB);
    bench.console.command_done(&mut bench.out);
    assert_eq!(bench.shown(), "");
    bench.type_in(&[ESCAPE]);
    assert_eq!(bench.shown(), "cloister> ");
    // While a command runs there is no prompt, and typing does nothing.
    bench.type_in(b"log\n");
    assert_eq!(bench.shown(), "log\r\n");
    assert_eq!(bench.type_in(b"log\n"), Event::None);
    assert_eq!(bench.log(Kind::Info, "text"), "[host] text\r\n");
    bench.console.command_done(&mut bench.out);
    assert_eq!(bench.shown(), "cloister> ");
}

#[test]
fn host_lines_never_tear_the_line_of_a_guest() {
    let mut bench = Bench::shell();
    bench.attach(0);
    bench.guest(0, b"half a li");
    assert_eq!(bench.log(Kind::Info, "vm db: started"), "");
    assert_eq!(bench.log(Kind::Warning, "odd"), "");
    assert_eq!(bench.log(Kind::Debug, "small"), "");
    assert_eq!(
        bench.log(Kind::Verdict, "vm db: powered off"),
        "\r\n[host] vm db: powered off\r\n"
    );
    assert_eq!(bench.log(Kind::Error, "bad"), "[host] error: bad\r\n");
    assert_eq!(bench.guest(0, b"ne\n"), "ne\n");
    assert_eq!(bench.log(Kind::Verdict, "x"), "[host] x\r\n");
}

#[test]
fn host_lines_leave_the_shells_line_standing() {
    let mut bench = Bench::shell();
    bench.type_in(b"vm sta");
    bench.shown();
    assert_eq!(
        bench.log(Kind::Warning, "odd"),
        "\r\n[host] warning: odd\r\ncloister> vm sta"
    );
    assert_eq!(bench.log(Kind::Debug, "small"), "");
    assert_eq!(
        bench.type_in(b"t web\r"),
        Event::Command("vm stat web".into())
    );
}

#[test]
fn lines_of_the_boot_are_shown_without_a_prompt() {
    let mut bench = Bench::new(&[], First::Shell);
    assert_eq!(bench.log(Kind::Info, "boot"), "[host] boot\r\n");
    bench.console.start_shell(&mut bench.out);
    bench.console.start_shell(&mut bench.out);
    assert_eq!(bench.shown(), PROMPT);
}

#[test]
fn the_first_vm_to_start_is_attached_once() {
    let mut bench = Bench::new(&["db", "web"], First::Any);
    bench.console.start_shell(&mut bench.out);
    assert_eq!(bench.shown(), "");
    assert_eq!(bench.type_in(b"early"), Event::None);
    bench.console.vm_started(1, &mut bench.out);
    assert_eq!(bench.shown(), WEB);
    assert_eq!(bench.input_of(1), b"early");
    bench.console.vm_started(0, &mut bench.out);
    assert_eq!(
        (bench.shown(), bench.console.attached()),
        (String::new(), Some(1))
    );
    bench.console.vm_ended(0, &mut bench.out);
    assert_eq!(bench.shown(), "");
    bench.console.vm_ended(1, &mut bench.out);
    assert_eq!(bench.shown(), PROMPT);
    bench.console.vm_started(1, &mut bench.out);
    assert_eq!(bench.shown(), "");
}

#[test]
fn a_named_vm_is_waited_for_until_somebody_wants_the_shell_or_it_fails() {
    let wait = || {
        let mut bench = Bench::new(&["db", "web"], First::Vm(1));
        bench.console.start_shell(&mut bench.out);
        bench.console.vm_started(0, &mut bench.out);
        assert_eq!(bench.shown(), "");
        bench
    };
    let mut bench = wait();
    bench.console.vm_started(1, &mut bench.out);
    assert_eq!(bench.shown(), WEB);

    let mut bench = wait();
    bench.type_in(&[ESCAPE]);
    assert_eq!(bench.shown(), PROMPT);
    bench.console.vm_started(1, &mut bench.out);
    assert_eq!(bench.shown(), "");

    let mut bench = wait();
    bench.console.vm_ended(1, &mut bench.out);
    assert_eq!(bench.shown(), PROMPT);

    let mut bench = wait();
    bench.console.settled(&mut bench.out);
    bench.console.settled(&mut bench.out);
    assert_eq!(bench.shown(), PROMPT);
    bench.attach(1);
    bench.console.settled(&mut bench.out);
    assert_eq!(bench.shown(), "");
}

#[test]
fn what_was_typed_for_a_vm_before_it_started_does_not_reach_it() {
    let mut bench = Bench::shell();
    bench.attach(0);
    bench.type_in(b"old");
    bench.console.vm_started(0, &mut bench.out);
    assert_eq!(bench.console.take_input(0), None);
    bench.type_in(b"new");
    assert_eq!(bench.input_of(0), b"new");
}

#[test]
fn completion_knows_the_vms() {
    let mut bench = Bench::shell();
    assert_eq!(
        bench.type_in(b"vm stat d\t\r"),
        Event::Command("vm stat db ".into())
    );
}

#[test]
fn queues_and_logs_are_bounded() {
    let mut bench = Bench::shell();
    let text: Vec<u8> = (0..LOG_CAPACITY + 10)
        .map(|i| b'a' + (i % 26) as u8)
        .collect();
    bench.guest(0, &text);
    let shown = bench.attach(0);
    let lost = "[host] 10 bytes before these are lost\r\n";
    let replay = str::from_utf8(&text[10..]).unwrap();
    assert_eq!(shown, alloc::format!("\r\n{WEB}{lost}{replay}"));
    bench.type_in(&[b'x'; INPUT_CAPACITY + 10]);
    assert_eq!(bench.input_of(0).len(), INPUT_CAPACITY);
}

#[test]
fn vms_that_do_not_exist_are_ignored() {
    let mut bench = Bench::shell();
    assert!(!bench.console.attach(2, &mut bench.out));
    assert_eq!(bench.guest(2, b"x"), "");
    bench.console.vm_started(2, &mut bench.out);
    bench.console.vm_ended(2, &mut bench.out);
    assert_eq!(bench.console.take_input(2), None);
    assert_eq!(bench.shown(), "");
}

#[derive(Clone, Debug)]
enum Step {
    Type(u8),
    Guest(usize, Vec<u8>),
    Attach(usize),
    Start(usize),
    End(usize),
    Shell,
    Done,
    Log(bool, String),
}

fn step() -> impl Strategy<Value = Step> {
    let vm = 0_usize..3;
    prop_oneof![
        4 => prop_oneof![any::<u8>(), Just(b'\r'), Just(ESCAPE)].prop_map(Step::Type),
        4 => (vm.clone(), prop::collection::vec(any::<u8>(), 0..20)).prop_map(|(v, b)| Step::Guest(v, b)),
        1 => vm.clone().prop_map(Step::Attach),
        1 => vm.clone().prop_map(Step::Start),
        1 => vm.prop_map(Step::End),
        1 => Just(Step::Shell),
        2 => Just(Step::Done),
        2 => (any::<bool>(), "\\PC{0,30}").prop_map(|(v, t)| Step::Log(v, t)),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_guest_bytes_are_kept_and_host_lines_stand_alone(
        first in prop_oneof![Just(First::Shell), Just(First::Any), (0_usize..3).prop_map(First::Vm)],
        steps in prop::collection::vec(step(), 0..80),
    ) {
        let mut bench = Bench::new(&["a", "b"], first);
        let mut kept = [Vec::new(), Vec::new()];
        let (mut all, mut fresh) = (Vec::new(), true);
        for step in steps {
            let (console, out) = (&mut bench.console, &mut bench.out);
            match step {
                Step::Type(byte) => { console.input(byte, out); }
                Step::Guest(vm, bytes) => {
                    let attached = console.attached() == Some(vm) && vm < 2;
                    console.guest_output(vm, &bytes, out);
                    if let Some(kept) = kept.get_mut(vm) { kept.extend_from_slice(&bytes); }
                    prop_assert_eq!(&out[..], if attached { &bytes[..] } else { b"" });
                }
                Step::Attach(vm) => {
                    if console.attach(vm, out) {
                        prop_assert!(out.ends_with(&kept[vm]));
                    }
                }
                Step::Start(vm) => console.vm_started(vm, out),
                Step::End(vm) => console.vm_ended(vm, out),
                Step::Shell => console.start_shell(out),
                Step::Done => console.command_done(out),
                Step::Log(verdict, text) => {
                    bench.log.push(if verdict { Kind::Verdict } else { Kind::Info }, format_args!("{text}"));
                    console.show_log(&bench.log, out);
                    let line = alloc::format!("[host] {text}\r\n");
                    let start = if fresh { line } else { alloc::format!("\r\n{line}") };
                    prop_assert!(out.starts_with(start.as_bytes()) || (out.is_empty() && !verdict && console.attached().is_some()));
                }
            }
            if let Some(&last) = bench.out.last() {
                fresh = last == b'\n';
            }
            all.append(&mut bench.out);
        }
    }
}
