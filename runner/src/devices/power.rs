//! Small devices that end or mark a run: ACPI power port, i8042 reset, pvpanic, POST port.

use super::{EventSink, MachineEvent, PanicSource, ResetSource};
use crate::{
    acpi::tables::{RESET_VALUE, SLEEP_TYPE_S5},
    bus::BusDevice,
};

/// ACPI sleep control, sleep status and reset register in one byte-wide port.
#[derive(Debug)]
pub struct PowerPort(pub EventSink);

/// SLP_EN of the sleep control register (ACPI 6.5, 4.8.3.7).
const SLEEP_ENABLE: u8 = 1 << 5;

impl BusDevice for PowerPort {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        // Sleep status: WAK_STS never set, nobody wakes from S5.
        data.fill(0);
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        match data {
            [value] if *value == RESET_VALUE => {
                self.0.event(MachineEvent::Reset(ResetSource::Acpi));
            }
            [value] if *value == SLEEP_TYPE_S5 << 2 | SLEEP_ENABLE => {
                self.0.event(MachineEvent::PowerOff);
            }
            _ => {}
        }
    }
}

/// The keyboard controller's command port: pulses the reset line, nothing else. Its status reads "empty".
#[derive(Debug)]
pub struct I8042Reset(pub EventSink);

const PULSE_RESET: u8 = 0xfe;

impl BusDevice for I8042Reset {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        if data == [PULSE_RESET] {
            self.0.event(MachineEvent::Reset(ResetSource::I8042));
        }
    }
}

/// QEMU's pvpanic port (`docs/specs/pvpanic.rst`): reads the supported events, takes the one that happened.
#[derive(Debug)]
pub struct Pvpanic(pub EventSink);

const PVPANIC_PANICKED: u8 = 1;

impl BusDevice for Pvpanic {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(first) = data.first_mut() {
            *first = PVPANIC_PANICKED;
        }
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        if data.first().is_some_and(|byte| byte & PVPANIC_PANICKED != 0) {
            self.0.event(MachineEvent::Panic(PanicSource::Pvpanic));
        }
    }
}

/// POST port: every byte is a boot mark.
#[derive(Debug)]
pub struct PostPort(pub EventSink);

impl BusDevice for PostPort {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        if let Some(&byte) = data.first() {
            self.0.event(MachineEvent::Mark(byte));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::Events;
    use std::sync::{Arc, Mutex};

    #[derive(Debug, Default)]
    struct Log(Mutex<Vec<MachineEvent>>);
    impl Events for Log {
        fn event(&self, event: MachineEvent) {
            self.0.lock().expect("alive").push(event);
        }
    }

    #[test]
    fn sleep_and_reset_values_are_told_apart_and_others_ignored() {
        let log = Arc::new(Log::default());
        let mut port = PowerPort(log.clone());
        port.write(0, &[0]);
        port.write(0, &[5 << 2]);
        port.write(0, &[3 << 2 | 1 << 5]);
        assert!(log.0.lock().expect("alive").is_empty());
        port.write(0, &[5 << 2 | 1 << 5]);
        port.write(0, &[1]);
        I8042Reset(log.clone()).write(0, &[0xfe]);
        Pvpanic(log.clone()).write(0, &[1]);
        assert_eq!(
            *log.0.lock().expect("alive"),
            [
                MachineEvent::PowerOff,
                MachineEvent::Reset(ResetSource::Acpi),
                MachineEvent::Reset(ResetSource::I8042),
                MachineEvent::Panic(PanicSource::Pvpanic),
            ]
        );
    }
}
