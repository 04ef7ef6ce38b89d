/**
 * Puts a rack of the lab together: machines, their switch, the rack's image cache, the trusted image, and the drivers over them.
 *
 * Invariant: machines that ran before go on, whether the rack can be opened or not.
 */
import { mkdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Clock } from '../../../controller/runtime/clock.ts';
import type { Random } from '../../../controller/runtime/random.ts';
import { RackExporter } from '../../image/exporter.ts';
import { type AttestationSettings, openTpmAttestation } from '../boot/attestation-settings.ts';
import { TrustedBoots } from '../boot/trusted.ts';
import { type TrustedImage, trustedSide } from '../boot/trusted-boot.ts';
import type { Baseline } from '../boot/trusted-facts.ts';
import { bridgeFabric } from '../fabric/bridge.ts';
import type { BridgeLayout, BridgePort } from '../fabric/layout.ts';
import type { Drivers } from '../port.ts';
import { type LabBmcs, startLabBmcs } from './bmcs.ts';
import { bootPort, controlAddress, controlPortAddress, dataAddress, dataGateway, tapName } from './network.ts';
import { openQemuRack, type QemuRack } from './rack.ts';
import { defaultShape, diskSerial, type MachineShape, type MachineSpec, macAddress, portName } from './shape.ts';

export interface LabSettings {
  readonly trustedImage: TrustedImage;
  /** Machines have a TPM, boot the trusted image by UEFI, and are attested by a quote; absent: by the token of the boot. */
  readonly attestation?: AttestationSettings;
  /** Directories whose files environments may name; none when absent. */
  readonly originDirectories?: readonly string[];
  /** Bytes a second that the rack's image server sends to all machines together. */
  readonly rateBytes?: number;
  readonly cacheMemoryBytes?: number;
  readonly cacheDiskBytes?: number;
  readonly shape?: MachineShape;
  /** Machines go on when the agent ends in order; they do in any case when it is killed. */
  readonly keepMachines?: boolean;
}

export interface LabContext {
  /** Of this rack alone. */
  readonly directory: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly onError: (error: unknown) => void;
}

export interface OpenedLab {
  readonly drivers: Drivers;
  readonly rack: QemuRack;
  readonly exporter: RackExporter;
  readonly bmcs: LabBmcs['bmcs'];
  /** Ends the machines, unless they are kept. */
  close(): Promise<void>;
}

const mebi = 2 ** 20;
const kernelKeepsShare = 0.35;
/** UEFI firmware takes more than plain firmware leaves. */
const shapeWithTpm: MachineShape = { ...defaultShape, memoryMiB: 256 };

function layoutOf(specs: readonly MachineSpec[]): BridgeLayout {
  const ports = ({ index }: MachineSpec): BridgePort[] => [
    {
      name: portName('Data'),
      role: 'Data',
      kind: 'Ethernet',
      ifname: tapName(index, 'Data'),
      address: macAddress(index, 'Data'),
      ipv4: dataAddress(index),
    },
    {
      name: portName('Control'),
      role: 'Control',
      kind: 'Ethernet',
      ifname: tapName(index, 'Control'),
      address: macAddress(index, 'Control'),
      ipv4: controlPortAddress(index),
      bootServer: controlAddress(index),
    },
  ];
  return {
    nodes: new Map(specs.map((spec) => [spec.name, ports(spec)])),
    bootServer: { addresses: [], tcpPorts: [bootPort], udpPorts: [] },
    dhcp: {},
    gateway: { shared: [`${dataGateway}/32`], forbidden: ['10.77.0.0/16'] },
  };
}

/** What a machine of the lab must show at its check. */
const baselineOf = ({ name, shape }: MachineSpec): Baseline => ({
  cores: 1,
  minMemoryBytes: shape.memoryMiB * mebi * (1 - kernelKeepsShare),
  disks: shape.disks.map((disk) => ({ serial: diskSerial(name, disk.name), sizeBytes: disk.sizeBytes })),
});

/** @throws Error for people when a program, a package or the rights are missing */
export async function openLab(
  nodes: readonly string[],
  settings: LabSettings,
  { directory, clock, random, onError }: LabContext,
): Promise<OpenedLab> {
  mkdirSync(directory, { recursive: true });
  const { attestation, trustedImage } = settings;
  // Before anything is started: a file of it may be missing.
  const tpm =
    attestation === undefined
      ? {}
      : { tpm: openTpmAttestation(attestation, trustedImage, { directory, clock, random }) };
  const exporter = await RackExporter.start({
    directory: join(directory, 'cache'),
    listen: { socketPath: join(directory, 'images.sock') },
    memoryBytes: settings.cacheMemoryBytes ?? 64 * mebi,
    diskBytes: settings.cacheDiskBytes ?? 8192 * mebi,
    policy: { directories: settings.originDirectories ?? [] },
    ...(settings.rateBytes === undefined ? {} : { rateBytes: settings.rateBytes }),
    ...{ clock, random, onError },
    onFault: (_digest, error) => onError(error),
  });
  let bmcs: LabBmcs | undefined;
  try {
    const rack = await openQemuRack({
      ...{ nodes, directory, runDirectory: tmpdir(), clock, random, onError, exporter },
      ...{ shape: settings.shape ?? (attestation === undefined ? defaultShape : shapeWithTpm) },
      ...{ trustedImage, hasTpms: attestation !== undefined },
      trusted: (specs, onChange) =>
        trustedSide(new TrustedBoots({ clock, random, onChange }), {
          baselines: new Map(specs.map((spec) => [spec.name, baselineOf(spec)])),
          ...tpm,
        }),
      async power(machines, changed) {
        bmcs = await startLabBmcs(machines, { directory, clock, random, changed, onError });
        return { ...bmcs.power, close: () => bmcs?.close() };
      },
      async fabric({ netns, specs }, onChange) {
        const fabric = bridgeFabric({ ...layoutOf(specs), table: 'lab', netns, clock, onChange, onError });
        await fabric.ready;
        return fabric;
      },
    });
    return {
      ...{ drivers: rack.drivers, rack, exporter, bmcs: bmcs?.bmcs ?? new Map() },
      async close() {
        if (settings.keepMachines === true) await rack.close();
        else await rack.remove();
        await exporter.stop();
      },
    };
  } catch (error) {
    await exporter.stop();
    throw error;
  }
}
