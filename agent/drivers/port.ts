/**
 * The four drivers behind an agent. They are level-triggered: a command only asks; what became of it, and what is, is read.
 *
 * Invariants that a driver set keeps:
 * 1. A reading is what was last read back from the machine, switch or image server, never what was asked for; what cannot be
 *    read is `Unknown`.
 * 2. A command returns at once and never throws. Its `token` shows up in the reading's `Change`: Pending until the outcome was
 *    read back. A driver that lost its memory shows no change; asking again is then harmless.
 * 3. A later command of the same kind replaces the earlier one in the reading, but only once the earlier one can no longer take
 *    effect. The agent therefore never asks while a change is Pending, and a driver must end every change in bounded time: with
 *    Error only when it is certain that nothing can follow any more, as after a BMC's job was deleted and read back as deleted.
 * 4. After any reading of a node changed, the listener is called with the node's name, outside of any command.
 * Reading is cheap (memory): drivers of real hardware poll or subscribe on their own and keep the newest reading.
 */
import type {
  Attestation,
  Environment,
  Failure,
  Inventory,
  NodeObservation,
  Port,
} from '../../controller/api/protocol.generated.ts';

export interface Change {
  readonly token: string;
  readonly status: 'Pending' | 'Done' | 'Error';
  /** A sentence for people; with Error. */
  readonly error?: string;
}

export type PowerState = NodeObservation['power'];
export type BootOrder = NodeObservation['boot']['order'];
export type Serving = NodeObservation['boot']['serving'];
export type Egress = NonNullable<Port['egress']>;
export type Erase = 'Quick' | 'Crypto' | 'Full';

export interface MachineFacts {
  readonly systemUuid: string;
  readonly inventory: Inventory;
}

export interface PowerReading {
  readonly state: PowerState;
  readonly order: BootOrder;
  readonly stateChange?: Change;
  readonly orderChange?: Change;
}

/** The BMC: power and boot order (Redfish, or a process that plays a machine). */
export interface Power {
  /** What the machine is made of; the same object until it changes. */
  machine(node: string): MachineFacts;
  read(node: string): PowerReading;
  /** `Shutdown` is the ACPI button: the guest may ignore it. Its change is Done once the button was pressed. */
  set(node: string, desired: 'On' | 'Off' | 'Shutdown', token: string): void;
  /** Lasting, not once: the order holds for every boot until the next change. */
  setOrder(node: string, order: 'Network' | 'Disk', token: string): void;
  /** Read everything of the node again. */
  refresh(node: string): void;
}

export interface FabricReading {
  readonly ports: readonly Port[];
  readonly dataChange?: Change;
  readonly controlChange?: Change;
}

/** Switch ports and P_Keys. Done says that every port of the role was read back. */
export interface Fabric {
  read(node: string): FabricReading;
  /** Makes every port of the role a member of this domain alone. */
  set(node: string, role: Port['role'], domain: string, egress: Egress | undefined, token: string): void;
  refresh(node: string): void;
}

export interface ImageReading {
  /** The export of the image that the node's VMM reads from. */
  readonly exported: 'Open' | 'Closed' | 'Unknown';
  /** What the boot server answers this machine. */
  readonly serving: Serving;
  /** Of the last `open`: what was found at the URL, once it is Done. */
  readonly digest?: string;
  readonly sizeBytes?: number;
  readonly exportChange?: Change;
  readonly servingChange?: Change;
}

/** Image export and boot server of the rack. */
export interface Images {
  read(node: string): ImageReading;
  /** Fetches what is needed to know the digest and exports the image read-only to this node alone. */
  open(node: string, image: Environment['image'], token: string): void;
  close(node: string, token: string): void;
  serve(node: string, what: Serving, token: string): void;
  /** Bytes served to all nodes since the driver started. */
  servedBytes(): number;
}

/**
 * What the VMM of this node is to do at its next boot, kept where the boot server hands it out. A boot server keeps of its own
 * accord, durably and before the guest starts, that a map was begun under the plan, and hands the plan out as Keep from then
 * on: the agent may be dead by then, and must not be asked.
 */
export interface VmmPlan {
  readonly epoch: number;
  readonly environment: Environment;
  readonly hostname: string;
  readonly sshKeys: readonly string[];
  /** Name of the disk that the image goes to. */
  readonly disk: string;
  /**
   * Fresh: where the target disk has no valid map of this epoch, erase it and start one. Keep: such a disk is a failure
   * (MapInvalid): the guest ran, and what it wrote must not be lost.
   */
  readonly start: 'Fresh' | 'Keep';
  /** Bytes a second; absent: no bound. */
  readonly maxRateBytes?: number;
}

/**
 * Of the time that a copy with `install.yield: Fair` has however busy the guest keeps its disk, as docs/vmm-channel.md asks of a hypervisor: the
 * guest keeps four fifths, and an installation takes at most five times as long as on an idle machine.
 */
export const leastFairShare = 0.2;

export interface VmmReading {
  readonly vmm: NodeObservation['vmm'];
  /** Epoch of the plan that the resident VMM, or the boot that failed, and so `guest`, `copy` and `failure` belong to; 0: none. */
  readonly epoch: number;
  /** Epoch of the newest plan under which a map was begun, as the boot server keeps it, also while nobody answers. */
  readonly begunEpoch?: number;
  readonly guest: NodeObservation['guest'];
  readonly copy: NodeObservation['copy'];
  /** The trusted image, where that is what the machine booted; reset at each boot. */
  readonly trusted: {
    readonly up: boolean;
    /** Nonce of the verified quote; empty before it. */
    readonly nonce: string;
    /** How that answer was verified; absent before it, and where the driver cannot say. */
    readonly attestation?: Attestation;
    /** Serial numbers of the disks that were wiped and read back, in this boot. */
    readonly wiped: readonly string[];
    readonly checked: boolean;
  };
  /** Failure of the last boot or of the running VMM, such as MapInvalid or DiskFailed. */
  readonly failure?: Failure;
  readonly change?: Change;
}

/** The channel to what the machine booted: the hypervisor, or in reclaim the trusted image. */
export interface Vmm {
  read(node: string): VmmReading;
  /** The plan for the next boot into the VMM; durable at the boot server when this returns. `undefined` forgets it. */
  plan(node: string, plan: VmmPlan | undefined): void;
  /** Bound of the background copy from now on. */
  throttle(node: string, maxRateBytes: number): void;
  /** Tells the tenant. */
  notify(node: string, message: string): void;
  /** The VMM leaves. One way. Done once it was seen to be gone, from outside. */
  devirtualize(node: string, token: string): void;
  attest(node: string, nonce: string, token: string): void;
  wipe(node: string, erase: Erase, token: string): void;
  check(node: string, token: string): void;
  refresh(node: string): void;
}

/** One rack's drivers. */
export interface Drivers {
  readonly power: Power;
  readonly fabric: Fabric;
  readonly images: Images;
  readonly vmm: Vmm;
  /** For `hello`: "format:Raw", "erase:Full", ... */
  readonly capabilities: readonly string[];
  /** One listener, set once. */
  onChange(listener: (node: string) => void): void;
  close(): void;
}

export interface Readings {
  readonly machine: MachineFacts;
  readonly power: PowerReading;
  readonly fabric: FabricReading;
  readonly images: ImageReading;
  readonly vmm: VmmReading;
}

export function readNode(drivers: Drivers, node: string): Readings {
  return {
    machine: drivers.power.machine(node),
    power: drivers.power.read(node),
    fabric: drivers.fabric.read(node),
    images: drivers.images.read(node),
    vmm: drivers.vmm.read(node),
  };
}

/** Whether something that was asked for can still take effect; of the BMC, or of anybody else. */
export function anythingPending(readings: Readings): boolean {
  const { stateChange, orderChange } = readings.power;
  return isPending(stateChange) || isPending(orderChange) || anythingPendingBesideBmc(readings);
}

const isPending = (change: Change | undefined): boolean => change?.status === 'Pending';

export function anythingPendingBesideBmc({ fabric, images, vmm }: Readings): boolean {
  return [fabric.dataChange, fabric.controlChange, images.exportChange, images.servingChange, vmm.change].some(
    isPending,
  );
}
