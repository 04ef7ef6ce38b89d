/**
 * Every fault that the simulated room can have, as a table: when it strikes, what it does, when it ends.
 *
 * Invariants:
 * 1. A rate of 0 draws no chance, so a room without faults is the same room, draw by draw, whatever the table holds.
 * 2. What a fault does to the machine is truth; what it does to a reading is said so in its row.
 * 3. A fault that needs a person to act has no end of its own: `heal` ends it.
 */

/** `Step`: a chance of 0 to 1 at each such occasion. `Day`: how often a day, for each machine or for the rack. */
export type Occasion = 'Step' | 'Day';

export type FaultGroup = 'bmc' | 'fabric' | 'machines' | 'tenant';

interface FaultRow {
  readonly group: FaultGroup;
  readonly occasion: Occasion;
  readonly scope: 'Machine' | 'Rack';
  /** Milliseconds between which its length is drawn; absent: over at once; 'Healed': lasts until a person acts. */
  readonly lasts?: readonly [min: number, max: number] | 'Healed';
  /** What happens, for people. */
  readonly what: string;
}

const second = 1000;
const minute = 60 * second;

const rows = {
  // BMC
  bmcHang: {
    group: 'bmc',
    occasion: 'Step',
    scope: 'Machine',
    lasts: [10 * second, 40 * minute],
    what: 'the BMC takes a command and answers nothing more for a while; then the command has run, or was lost',
  },
  bmcSilent: {
    group: 'bmc',
    occasion: 'Day',
    scope: 'Machine',
    lasts: [30 * second, 30 * minute],
    what: 'the BMC answers nothing for a while: power and boot order read Unknown',
  },
  bmcSlow: {
    group: 'bmc',
    occasion: 'Step',
    scope: 'Machine',
    what: 'a command takes twenty times as long',
  },
  bmcLate: {
    group: 'bmc',
    occasion: 'Step',
    scope: 'Machine',
    lasts: [6 * minute, 60 * minute],
    what: 'an accepted job stays pending far longer than anybody waits, and then runs',
  },
  bmcGhost: {
    group: 'bmc',
    occasion: 'Step',
    scope: 'Machine',
    lasts: [10 * second, 60 * minute],
    what: 'a job that the BMC says it deleted runs all the same, later; the driver was told of an error',
  },
  bmcLiesOff: {
    group: 'bmc',
    occasion: 'Step',
    scope: 'Machine',
    lasts: [10 * second, 60 * minute],
    what: 'the command to switch off does nothing, and the BMC reads Off for a while',
  },
  orderIgnored: {
    group: 'bmc',
    occasion: 'Step',
    scope: 'Machine',
    what: 'a boot order reads back as asked for, and the machine boots as before',
  },
  orderUnread: {
    group: 'bmc',
    occasion: 'Step',
    scope: 'Machine',
    lasts: [1 * minute, 20 * minute],
    what: 'a boot order is in force, and the BMC reads back the one before for a while',
  },

  // Switches
  fabricLate: {
    group: 'fabric',
    occasion: 'Step',
    scope: 'Machine',
    lasts: [6 * minute, 60 * minute],
    what: 'a switch job stays pending far longer than anybody waits, and then runs',
  },
  fabricStuck: {
    group: 'fabric',
    occasion: 'Step',
    scope: 'Machine',
    lasts: 'Healed',
    what: 'a switch job stays pending for ever, run or not; once a person acted the port reads as it is',
  },
  fabricGhost: {
    group: 'fabric',
    occasion: 'Step',
    scope: 'Machine',
    lasts: [10 * second, 60 * minute],
    what: 'a switch job that failed runs all the same, later',
  },
  fabricStale: {
    group: 'fabric',
    occasion: 'Day',
    scope: 'Machine',
    lasts: [5 * second, 2 * minute],
    what: 'the ports read as they were, from a cache, until they are asked for again or changed',
  },
  portUnknown: {
    group: 'fabric',
    occasion: 'Day',
    scope: 'Machine',
    lasts: [10 * second, 20 * minute],
    what: 'a data port cannot be read',
  },
  fabricDefaults: {
    group: 'fabric',
    occasion: 'Day',
    scope: 'Rack',
    what: 'the subnet manager restores its defaults: every data port is in the domain of all',
  },
  cableSwap: {
    group: 'fabric',
    occasion: 'Day',
    scope: 'Rack',
    lasts: 'Healed',
    what: "the cables of one data port of two machines are exchanged: orders for one machine's port move the other's",
  },

  // Machines, disks, images
  powerLoss: {
    group: 'machines',
    occasion: 'Day',
    scope: 'Machine',
    lasts: [5 * second, 60 * minute],
    what: 'power is lost with the BMC, and comes back; the machine is then on as before, or off, or on whatever it was',
  },
  rackDark: {
    group: 'machines',
    occasion: 'Day',
    scope: 'Rack',
    lasts: [5 * second, 60 * minute],
    what: 'every machine of the rack loses power, as in powerLoss',
  },
  reset: {
    group: 'machines',
    occasion: 'Day',
    scope: 'Machine',
    what: 'a warm reset',
  },
  dies: {
    group: 'machines',
    occasion: 'Day',
    scope: 'Machine',
    lasts: 'Healed',
    what: 'the machine and its BMC are gone for good',
  },
  vmmPanic: {
    group: 'machines',
    occasion: 'Day',
    scope: 'Machine',
    what: 'the hypervisor stops, and its guest with it',
  },
  vmmSilent: {
    group: 'machines',
    occasion: 'Day',
    scope: 'Machine',
    lasts: [10 * second, 30 * minute],
    what: 'the channel to what the machine booted is dead, while all of it runs on',
  },
  diskError: {
    group: 'machines',
    occasion: 'Day',
    scope: 'Machine',
    what: 'a write error on the target disk in the middle of the copy: the copy stops, the VMM says DiskFailed',
  },
  tornMap: {
    group: 'machines',
    occasion: 'Step',
    scope: 'Machine',
    what: 'the map of filled blocks is torn when power goes while a VMM runs',
  },
  diskSwap: {
    group: 'machines',
    occasion: 'Day',
    scope: 'Machine',
    what: "a disk is exchanged for another with somebody's data on it",
  },
  wipeMisses: {
    group: 'machines',
    occasion: 'Step',
    scope: 'Machine',
    what: 'the wiper leaves out a disk; read-back finds it after the wipe, or only the check does',
  },
  imagesDown: {
    group: 'machines',
    occasion: 'Day',
    scope: 'Rack',
    lasts: [5 * second, 60 * minute],
    what: 'the image server answers nothing: reads stall, exports neither open nor close, and read Unknown',
  },
  imagesSlow: {
    group: 'machines',
    occasion: 'Day',
    scope: 'Rack',
    lasts: [10 * second, 60 * minute],
    what: 'the image server serves a fiftieth',
  },
  imageRot: {
    group: 'machines',
    occasion: 'Day',
    scope: 'Rack',
    lasts: 'Healed',
    what: 'what is behind the URL of an image is no longer what was published',
  },
  twin: {
    group: 'machines',
    occasion: 'Day',
    scope: 'Rack',
    lasts: 'Healed',
    what: 'two machines say the same system UUID and disk serial numbers',
  },

  // A tenant with root on the machine
  ignoresAcpi: {
    group: 'tenant',
    occasion: 'Step',
    scope: 'Machine',
    what: 'the guest ignores the ACPI button',
  },
  takesBmc: {
    group: 'tenant',
    occasion: 'Day',
    scope: 'Machine',
    lasts: 'Healed',
    what: 'the tenant changed the users of the BMC: it refuses our credentials',
  },
  setsOrder: {
    group: 'tenant',
    occasion: 'Day',
    scope: 'Machine',
    what: 'the tenant turns the boot order round from inside',
  },
  spoofs: {
    group: 'tenant',
    occasion: 'Day',
    scope: 'Machine',
    what: 'the tenant asks the boot server in the name and with the hardware address of another machine',
  },
  forges: {
    group: 'tenant',
    occasion: 'Day',
    scope: 'Machine',
    lasts: [1 * minute, 60 * minute],
    what: "the tenant speaks as its hypervisor or as the trusted image: installed, gone, wiped; without that boot's key",
  },
  resetsAtWorst: {
    group: 'tenant',
    occasion: 'Step',
    scope: 'Machine',
    what: 'the tenant resets the machine within seconds of a change of its boot, ports, export, or of the ACPI button',
  },
} as const satisfies Readonly<Record<string, FaultRow>>;

export type FaultKind = keyof typeof rows;

export const faultTable: Readonly<Record<FaultKind, FaultRow>> = rows;

export const faultKinds = Object.keys(rows) as readonly FaultKind[];

/** By kind: a chance, or times a day, as its row says. Absent: never. */
export type FaultRates = Readonly<Partial<Record<FaultKind, number>>>;

/** A fault in force. */
export interface ActiveFault {
  /** In the room's own time; null: until healed. */
  readonly untilMs: number | null;
  /** Of the whole rack: the machine that it was begun with. */
  readonly node?: string;
  /** What it needs to be ended, by kind. */
  readonly detail?: Readonly<Record<string, unknown>>;
}
