/**
 * What a BMC of the lab stands in front of: a machine that can be switched, and what is known about its hardware.
 */

/** Redfish's BootSourceOverrideTarget and BootSourceOverrideEnabled, as far as the lab's machines can do them. */
export interface BootOverride {
  readonly target: 'None' | 'Pxe' | 'Hdd' | 'UefiHttp';
  readonly enabled: 'Disabled' | 'Once' | 'Continuous';
}

export const noOverride: BootOverride = { target: 'None', enabled: 'Disabled' };

/** Whether the start that it is for boots from the network. */
export const isFromNetwork = ({ target, enabled }: BootOverride): boolean =>
  enabled !== 'Disabled' && (target === 'Pxe' || target === 'UefiHttp');

export interface BmcMachine {
  power(): 'On' | 'Off';
  on(): Promise<void>;
  /** Power is cut. */
  off(): Promise<void>;
  /** Presses the ACPI button; resolves once it was pressed, whatever the guest makes of it. */
  shutdown(): Promise<void>;
  reset(): Promise<void>;
  /**
   * The machine reads it at each start, and sets one that holds for `Once` back to `noOverride`. It outlives the machine's power,
   * as the BMC does.
   */
  bootOverride: BootOverride;
}

export interface BmcHardware {
  readonly systemUuid: string;
  readonly name: string;
  readonly architecture: 'x86_64' | 'aarch64';
  /** Its firmware boots by HTTP, and the BMC has a target for it. */
  readonly bootsByHttp?: boolean;
  readonly cores: number;
  readonly memoryBytes: number;
  readonly disks: readonly {
    readonly name: string;
    readonly serial: string;
    readonly sizeBytes: number;
    readonly media: 'NVMe' | 'SSD' | 'HDD';
  }[];
  readonly interfaces: readonly { readonly name: string; readonly address: string }[];
}

/** How a BMC is bad. Each is looked at anew for every request, so that a test or a person can switch it while it runs. */
export interface Misbehaviour {
  /** Takes `Once`, shows it, and lets the machine boot as if nothing had been set. */
  ignoresOnce?: boolean;
  /** The override is gone by the time the machine starts. */
  losesOverrideAtReset?: boolean;
  /** Every answer comes so much later. */
  slowMs?: number;
  /** Connections are accepted, and nothing is ever said on them. */
  hangs?: boolean;
  /** A change of power is shown so much later than it happened. */
  staleMs?: number;
  /** Resets and boot overrides are answered with 202 and a task, and done so much later. */
  deferMs?: number;
  /** A task that was deleted is gone, and its work is done all the same. */
  deletesTasksOnly?: boolean;
  /** Right credentials are refused as well. */
  refusesCredentials?: boolean;
  /** Everything behind the login is answered with this HTTP status, such as 500 or 503. */
  failsWith?: number;
  /** A reset is answered as done and nothing happens. */
  ignoresReset?: boolean;
}
