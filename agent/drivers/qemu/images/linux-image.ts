/**
 * A Linux environment as a raw disk image: MBR, a FAT16 partition with SYSLINUX and the kernel, an ext4 root.
 *
 * Invariants:
 * 1. Made of files alone: no mount, no loop device, no root.
 * 2. The same inputs give the same bytes: fixed times, identifiers and order.
 */
import { createHash } from 'node:crypto';
import { chmod, copyFile, link, mkdir, open, readFile, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { bootEntry, bootEntryTitle, layoutOffset, layoutSector, type Place } from '../../boot/tenant-data.ts';
import { cpio, type Entry } from './cpio.ts';
import { loadInOrder, moduleFiles, unsignedModule } from './modules.ts';
import { run } from './run.ts';

export interface LinuxEnvironment {
  /** "alpha": what the guest calls itself. */
  readonly name: string;
  readonly release: string;
  /** Arguments that are in the image, before those of the machine. */
  readonly kernelArguments: readonly string[];
  /** Further files of the root file system, by path from its root. */
  readonly files: Readonly<Record<string, string | Uint8Array>>;
}

export interface Ingredients {
  readonly kernel: string;
  /** Directory of the kernel's modules, as lib/modules/6.1.0-56-cloud-amd64/kernel. */
  readonly modules: string;
  readonly busybox: string;
}

const mebibyte = 1 << 20;
const fatOffset = mebibyte;
const fatSize = 20 * mebibyte;
const rootOffset = fatOffset + fatSize;
export const linuxImageBytes = 64 * mebibyte;
const bootEntryLength = 4096;
const seedPlace: Place = { offset: 64 * 512, length: 128 * 512 };
/** 2024-01-01: any fixed time serves. */
const fixedTime = '1704067200';

export const bootModules = [
  'virtio_ring',
  'virtio',
  'virtio_pci_legacy_dev',
  'virtio_pci_modern_dev',
  'virtio_pci',
  'virtio_blk',
  'failover',
  'net_failover',
  'virtio_net',
];
/** What an emulated processor spends a second on, and nobody here needs: a check of its timer, layout at random, tests of ciphers, cleared pages. */
const emulationArguments: readonly string[] = ['no_timer_check', 'nokaslr', 'cryptomgr.notests', 'init_on_alloc=0'];
/** The power button. */
export const lateModules = ['evdev', 'button'];
/** Left to commands: AoE, packet generation, virtual ports. */
const commandModules = ['aoe', 'pktgen', 'macvlan', 'tun', 'llc', 'stp', 'bridge'];

const script = (name: string): Promise<Buffer> => readFile(new URL(`linux/${name}`, import.meta.url));

/** Writes the image to `path`; `scratch` is a directory of its own that the caller removes. */
export async function makeLinuxImage(
  path: string,
  scratch: string,
  environment: LinuxEnvironment,
  ingredients: Ingredients,
): Promise<void> {
  const signature = createHash('sha256').update(environment.name).digest().subarray(0, 4);
  const fat = await fatPartition(scratch, environment, ingredients, signature.toString('hex'));
  const root = await rootPartition(scratch, environment, ingredients);
  const image = Buffer.alloc(linuxImageBytes);
  const bootCode = await readFile('/usr/lib/SYSLINUX/mbr.bin').catch(() => {
    throw new Error('SYSLINUX has no mbr.bin here: apt-get install syslinux-common');
  });
  bootCode.copy(image, 0, 0, 440);
  signature.copy(image, 440);
  partitionEntry({ active: true, type: 0x0e, offset: fatOffset, size: fatSize }).copy(image, 446);
  partitionEntry({ active: false, type: 0x83, offset: rootOffset, size: linuxImageBytes - rootOffset }).copy(
    image,
    462,
  );
  image.writeUInt16LE(0xaa55, 510);
  layoutSector({ bootEntry: findBootEntry(fat), seed: seedPlace }).copy(image, layoutOffset);
  // No seed: the guest's shell reads a line byte by byte, and without an end it would read the whole place so.
  image.write('\n', seedPlace.offset);
  fat.copy(image, fatOffset);
  root.copy(image, rootOffset);
  await writeSparse(path, image);
}

/** Most of an image is nothing: holes take no room. */
async function writeSparse(path: string, image: Buffer): Promise<void> {
  const piece = 64 << 10;
  const nothing = Buffer.alloc(piece);
  const file = await open(path, 'w');
  try {
    await file.truncate(image.length);
    for (let at = 0; at < image.length; at += piece) {
      const bytes = image.subarray(at, at + piece);
      if (!bytes.equals(nothing.subarray(0, bytes.length))) await file.write(bytes, 0, bytes.length, at);
    }
  } finally {
    await file.close();
  }
}

function partitionEntry(of: { active: boolean; type: number; offset: number; size: number }): Buffer {
  const entry = Buffer.alloc(16);
  entry[0] = of.active ? 0x80 : 0;
  // Cylinders and heads that say "beyond": only the sector numbers count.
  entry.fill(Buffer.from([0xfe, 0xff, 0xff]), 1, 4);
  entry[4] = of.type;
  entry.fill(Buffer.from([0xfe, 0xff, 0xff]), 5, 8);
  entry.writeUInt32LE(of.offset / 512, 8);
  entry.writeUInt32LE(of.size / 512, 12);
  return entry;
}

/** Where the file with the machine's arguments lies on the disk; it is in one piece, as the first file of a new file system. */
function findBootEntry(fat: Buffer): Place {
  const wanted = bootEntry(bootEntryLength, []);
  const at = fat.indexOf(wanted);
  if (at < 0 || fat.indexOf(bootEntryTitle, at + 1) >= 0)
    throw new Error('the boot entry is not in one place of the image');
  return { offset: fatOffset + at, length: bootEntryLength };
}

async function fatPartition(
  scratch: string,
  environment: LinuxEnvironment,
  ingredients: Ingredients,
  signature: string,
): Promise<Buffer> {
  const fat = join(scratch, 'fat.img');
  const own = [
    'console=ttyS0',
    'quiet',
    ...emulationArguments,
    'panic=5',
    `lab.disk=${signature}`,
    ...environment.kernelArguments,
  ];
  const files: [string, string | Uint8Array][] = [
    ['args.cfg', bootEntry(bootEntryLength, [])],
    [
      'syslinux.cfg',
      `SERIAL 0 115200\nDEFAULT ${environment.name}\nPROMPT 0\nTIMEOUT 0\nLABEL ${environment.name}\n` +
        `  LINUX vmlinuz ${own.join(' ')}\n  INITRD initrd.img\n  INCLUDE args.cfg\n`,
    ],
    ['initrd.img', await initramfs(ingredients)],
    ['vmlinuz', await readFile(ingredients.kernel)],
  ];
  await writeFile(fat, Buffer.alloc(fatSize));
  await run('mkfs.fat', ['-F', '16', '-s', '8', '--invariant', fat]);
  for (const [name, bytes] of files) {
    const file = join(scratch, name);
    await writeFile(file, bytes);
    await run('mcopy', ['-i', fat, file, `::${name}`], { env: { SOURCE_DATE_EPOCH: fixedTime, TZ: 'UTC' } });
  }
  await run('syslinux', ['--install', fat], { env: { SOURCE_DATE_EPOCH: fixedTime, TZ: 'UTC' } });
  return readFile(fat);
}

/**
 * Loads all its modules in one process, and without their signatures: an emulated processor takes some 10 ms for each process and more to
 * check a signature of RSA.
 */
async function initramfs(ingredients: Ingredients): Promise<Buffer> {
  const names = [...bootModules, ...lateModules];
  const modules = `lib/modules/${basename(dirname(ingredients.modules))}`;
  const file = (path: string, mode: number, bytes: Buffer): Entry => ({ path, kind: 'File', mode, bytes });
  const entries: Entry[] = [
    ...['bin', 'dev', 'etc', 'proc', 'disk', 'lib', 'lib/modules', modules].map(
      (path): Entry => ({ path, kind: 'Directory' }),
    ),
    { path: 'dev/console', kind: 'Device', major: 5, minor: 1 },
    file('init', 0o755, await script('initramfs-init.sh')),
    file('bin/busybox', 0o755, await readFile(ingredients.busybox)),
    file('etc/fstab', 0o644, Buffer.from('proc /proc proc defaults 0 0\ndev /dev devtmpfs defaults 0 0\n')),
    file('etc/last-module', 0o644, Buffer.from(`${names.at(-1)}\n`)),
    file(`${modules}/modules.dep`, 0o644, Buffer.from(loadInOrder(names))),
  ];
  for (const [name, bytes] of await moduleFiles(ingredients.modules, names)) {
    entries.push(file(`${modules}/${name}.ko`, 0o644, unsignedModule(bytes)));
  }
  return cpio(entries);
}

async function rootPartition(
  scratch: string,
  environment: LinuxEnvironment,
  ingredients: Ingredients,
): Promise<Buffer> {
  const tree = join(scratch, 'root');
  const directories = 'bin dev etc lib/modules proc root/.ssh run sbin sys tmp var/lib var/log www/cgi-bin'.split(' ');
  for (const path of directories) await mkdir(join(tree, path), { recursive: true });
  await copyFile(ingredients.busybox, join(tree, 'bin/busybox'));
  for (const applet of (await run(ingredients.busybox, ['--list'])).split('\n')) {
    if (applet !== '' && applet !== 'busybox') await link(join(tree, 'bin/busybox'), join(tree, 'bin', applet));
  }
  await link(join(tree, 'bin/busybox'), join(tree, 'sbin/init'));
  const files: Record<string, string | Uint8Array> = {
    'etc/rc': await script('rc.sh'),
    'etc/console': await script('console.sh'),
    'etc/inittab': await script('inittab'),
    'etc/passwd': 'root::0:0:root:/root:/bin/sh\n',
    'etc/group': 'root:x:0:\n',
    'etc/lab-env': `ENVIRONMENT=${environment.name}\nRELEASE=${environment.release}\n`,
    'etc/fstab': 'sysfs /sys sysfs defaults 0 0\ntmpfs /run tmpfs defaults 0 0\n',
    'www/cgi-bin/info': await script('info.cgi.sh'),
    'bin/send-frames': await script('send-frames.sh'),
    'bin/answer-dhcp': await script('answer-dhcp.sh'),
    ...environment.files,
  };
  for (const [name, bytes] of await moduleFiles(ingredients.modules, commandModules)) {
    files[`lib/modules/${name}.ko`] = unsignedModule(bytes);
  }
  for (const [path, bytes] of Object.entries(files)) await writeFile(join(tree, path), bytes);
  for (const path of [
    'bin/busybox',
    ...Object.keys(files).filter((path) => /^bin\/|cgi-bin|etc\/(rc|console)$/.test(path)),
  ]) {
    await chmod(join(tree, path), 0o755);
  }
  const image = join(scratch, 'root.img');
  await writeFile(image, Buffer.alloc(linuxImageBytes - rootOffset));
  const uuid = '6c616200-0000-4000-8000-000000000001';
  await run(
    'mke2fs',
    [
      '-q',
      '-t',
      'ext4',
      '-L',
      environment.name,
      '-U',
      uuid,
      '-E',
      `hash_seed=${uuid},root_owner=0:0`,
      '-d',
      tree,
      image,
    ],
    { env: { E2FSPROGS_FAKE_TIME: fixedTime } },
  );
  await fixTimes(image, join(scratch, 'times'));
  return readFile(image);
}

/** mke2fs copies the times of the files, and nobody can set a file's ctime: so they are set in the file system. */
async function fixTimes(image: string, commands: string): Promise<void> {
  const firstInode = 11;
  const inodes = Number(/^Inode count: +(\d+)$/m.exec(await run('dumpe2fs', ['-h', image]))?.[1]);
  const free = Number(/^Free inodes: +(\d+)$/m.exec(await run('dumpe2fs', ['-h', image]))?.[1]);
  const lines: string[] = [];
  for (let inode = firstInode; inode <= inodes - free; inode += 1) {
    for (const field of ['atime', 'ctime', 'mtime', 'crtime']) lines.push(`sif <${inode}> ${field} @${fixedTime}`);
  }
  await writeFile(commands, `${lines.join('\n')}\n`);
  await run('debugfs', ['-w', '-f', commands, image], { env: { E2FSPROGS_FAKE_TIME: fixedTime } });
}
