/**
 * `bitvisor-operator lab` (`npm run lab`): a standalone site whose machines are real enough to boot guests: QEMU plays them.
 *
 * Invariants:
 * 1. Nothing of it outlives the command, the data directory apart: machines, interfaces and namespaces go when it ends.
 * 2. What is missing on this host is said before anything is started.
 */
import { accessSync, constants, existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { delimiter, isAbsolute, join, relative, resolve } from 'node:path';
import { buildLabImages, type LabImage, type LabImages } from '../../agent/drivers/qemu/images/build.ts';
import { uefiFirmware } from '../../agent/drivers/qemu/measured.ts';
import { dataAddress } from '../../agent/drivers/qemu/network.ts';
import { namesOf } from '../../agent/drivers/qemu/rack.ts';
import { CliError } from './arguments.ts';
import type { QemuConfig } from './drivers.ts';
import { runStandalone, type StandaloneContext } from './standalone.ts';

export interface LabFlags {
  readonly dataDir: string;
  readonly nodes: number;
  readonly port?: number;
  /** A folder of manifests in place of the lab's own site. */
  readonly example?: string;
  readonly untilReady?: boolean;
  /** Machines have a TPM, and are attested by a quote. */
  readonly tpm?: boolean;
  /** Seconds. */
  readonly timeout: number;
}

export interface LabContext extends StandaloneContext {
  readonly isRoot: boolean;
}

/** Programs, or files by their whole path, and the packages of Debian that they come in. */
const needed: readonly (readonly [program: string, packages: string])[] = [
  ['qemu-system-x86_64', 'qemu-system-x86 ipxe-qemu'],
  ['qemu-img', 'qemu-utils'],
  ['dnsmasq', 'dnsmasq-base'],
  ['nft', 'nftables'],
  ['ip', 'iproute2'],
  ['mke2fs', 'e2fsprogs'],
  ['mkfs.fat', 'dosfstools'],
  ['mcopy', 'mtools'],
  ['syslinux', 'syslinux syslinux-common'],
];
const neededForTpms: typeof needed = [
  ['swtpm', 'swtpm'],
  [uefiFirmware.code, 'ovmf'],
];
const agentName = 'lab';
const agentPort = 17_700;

function isInstalled(program: string, path: string): boolean {
  if (isAbsolute(program)) return existsSync(program);
  return [...path.split(delimiter), '/usr/sbin', '/sbin'].some((directory) => {
    try {
      accessSync(join(directory, program), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/** @throws CliError */
function checkHost({ tpm }: LabFlags, { isRoot, environment }: LabContext): void {
  const all = tpm === true ? [...needed, ...neededForTpms] : needed;
  const missing = all.filter(([program]) => !isInstalled(program, environment.PATH ?? ''));
  if (missing.length > 0) {
    const packages = missing.map(([, name]) => name).join(' ');
    throw new CliError(`the lab needs ${missing.map(([name]) => name).join(', ')}: apt-get install ${packages}`);
  }
  if (!isRoot) throw new CliError('the lab makes network namespaces: run it as root');
}

const environmentOf = (image: LabImage, namespace: string, more: string): string => `---
apiVersion: bitvisor.io/v1alpha1
kind: ComputeEnvironment
metadata: { name: ${image.name}, namespace: ${namespace} }
spec:
  os: ${more}
  image:
    url: file://${image.path}
    size: '${image.sizeBytes}'
    sha256: ${image.sha256}
`;

const allocationOf = (name: string, namespace: string, image: string, replicas: number): string => `---
apiVersion: bitvisor.io/v1alpha1
kind: NodeAllocation
metadata: { name: ${name}, namespace: ${namespace} }
spec:
  environmentRef: { name: ${image} }
  replicas: ${replicas}
  isolation: { egress: Shared }
  reclaim: { gracePeriod: 10s }
`;

function tenantOf(namespace: string, images: readonly LabImage[], allocation: string): string {
  const linux = (image: LabImage): string =>
    environmentOf(image, namespace, `{ family: Linux, name: Lab ${image.name}, architecture: x86_64 }`) +
    "  boot: { firmware: Bios, kernelArguments: ['lab.note=first'], localArguments: LoaderEntry }\n";
  const other = (image: LabImage): string =>
    `${environmentOf(image, namespace, '{ family: Other, name: A program in a boot sector, architecture: x86_64 }')}  boot: { firmware: Bios }\n`;
  return [
    `apiVersion: v1\nkind: Namespace\nmetadata: { name: ${namespace} }\n`,
    ...images.map((image) => (image.name === 'other' ? other(image) : linux(image))),
    allocation,
  ].join('');
}

/** The site that the lab begins with: two tenants, a node left over for a third. */
function writeSite(directory: string, images: LabImages, nodes: number): void {
  mkdirSync(directory, { recursive: true });
  const hostlist = nodes === 1 ? 'lab0' : `lab[0-${nodes - 1}]`;
  const blue = nodes > 2 ? 1 : 0;
  const red = Math.max(1, Math.min(2, nodes - blue));
  const files = {
    'agents.yaml': `# The rack of the lab. QEMU plays its machines.
apiVersion: bitvisor.io/v1alpha1
kind: BitVisorAgent
metadata: { name: ${agentName} }
spec:
  endpoint: https://127.0.0.1:${agentPort}
  location: { site: lab, rack: lab }
  nodes: '${hostlist}'
  commission: { storeId: lab-store, nodes: '${hostlist}' }
`,
    'red.yaml': tenantOf('red', [images.alpha, images.beta], allocationOf('compute', 'red', 'alpha', red)),
    'blue.yaml': tenantOf(
      'blue',
      [images.beta, images.other],
      blue === 0 ? '' : allocationOf('compute', 'blue', 'beta', blue),
    ),
  };
  for (const [name, text] of Object.entries(files)) writeFileSync(join(directory, name), text);
}

function qemuOf({ trusted: { kernel, initrd, unified } }: LabImages, origin: string, { tpm }: LabFlags): QemuConfig {
  const origins = [origin];
  if (tpm !== true) return { trusted: { kernel, initrd }, origins };
  // Nobody has seen these machines before the lab makes them.
  return { trusted: { kernel, initrd, unified }, origins, attestation: { method: 'Tpm', enrolment: 'FirstUse' } };
}

/** @returns the exit code @throws CliError */
export async function runLab(given: LabFlags, context: LabContext): Promise<number> {
  checkHost(given, context);
  const { output } = context;
  const dataDir = resolve(given.dataDir);
  const imageDirectory = join(dataDir, 'images');
  output.write('Building the images of the lab from Debian packages, or finding them built ...\n');
  const images = await buildLabImages(imageDirectory).catch((error: unknown) => {
    throw new CliError(error instanceof Error ? error.message : String(error));
  });
  const site = join(dataDir, 'site');
  if (!existsSync(join(dataDir, 'repository'))) writeSite(site, images, given.nodes);
  const { netns, runDirectory } = namesOf(join(dataDir, 'agents', 'racks', agentName), '/tmp');
  const here = (path: string): string => relative('.', path) || '.';
  const tries = [
    `  ip netns exec ${netns} curl -s http://${dataAddress(0)}/cgi-bin/info       what the guest of lab0 says, once it has one`,
    `  tail -f ${here(join(dataDir, 'agents', 'racks', agentName, 'lab0', 'serial.log'))}       its console; a shell is at ${join(runDirectory, '0', 'serial')}`,
    `  ip netns exec ${netns} nft list table bridge lab       who may talk to whom`,
    `  change red.yaml from alpha to beta and add "update: { policy: Rolling }": the nodes are imaged anew one at a time`,
  ];
  const qemu = qemuOf(images, imageDirectory, given);
  const { untilReady, port, timeout } = given;
  const flags = { dataDir, example: resolve(given.example ?? site), timeFactor: 1, timeout };
  return runStandalone(
    { ...flags, ...(port === undefined ? {} : { port }), ...(untilReady === undefined ? {} : { untilReady }) },
    { ...context, lab: { qemu, tries } },
  );
}
