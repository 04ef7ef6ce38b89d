/** A machine in memory for a BMC to stand in front of: it boots at once, and remembers from where. */
import {
  type BmcHardware,
  type BmcMachine,
  type BootOverride,
  noOverride,
} from '../../agent/drivers/qemu/bmc/machine.ts';

export const testHardware: BmcHardware = {
  systemUuid: '4c4c4544-0044-4210-8031-c2c04f333432',
  name: 'n00',
  architecture: 'x86_64',
  cores: 4,
  memoryBytes: 2 ** 31,
  disks: [
    { name: 'sda', serial: 'S0A', sizeBytes: 2 ** 32, media: 'SSD' },
    { name: 'sdb', serial: 'S0B', sizeBytes: 2 ** 33, media: 'HDD' },
  ],
  interfaces: [
    { name: 'data0', address: '52:54:00:00:00:01' },
    { name: 'ctl0', address: '52:54:00:00:00:02' },
  ],
};

export class MemoryMachine implements BmcMachine {
  bootOverride: BootOverride = noOverride;
  /** Where each start booted from, oldest first; a disk is what it boots from by itself. */
  readonly boots: ('Pxe' | 'Hdd')[] = [];
  /** Of everything that was done to it, oldest first. */
  readonly log: string[] = [];
  guestObeysButton = true;
  failing = false;
  #power: 'On' | 'Off' = 'Off';

  power(): 'On' | 'Off' {
    return this.#power;
  }

  async on(): Promise<void> {
    this.#act('on');
    this.#power = 'On';
    this.#boot();
  }

  async off(): Promise<void> {
    this.#act('off');
    this.#power = 'Off';
  }

  async shutdown(): Promise<void> {
    this.#act('shutdown');
    if (this.guestObeysButton) this.#power = 'Off';
  }

  async reset(): Promise<void> {
    this.#act('reset');
    this.#boot();
  }

  /** What a person at the machine, or its own crash, does. */
  losePower(): void {
    this.#power = 'Off';
  }

  #act(what: string): void {
    if (this.failing) throw new Error('the machine does not obey');
    this.log.push(what);
  }

  #boot(): void {
    const { target, enabled } = this.bootOverride;
    this.boots.push(enabled !== 'Disabled' && target === 'Pxe' ? 'Pxe' : 'Hdd');
    if (enabled === 'Once') this.bootOverride = noOverride;
  }
}
