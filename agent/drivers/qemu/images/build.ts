/**
 * The images of the lab: two Linux environments, a guest that is no operating system, and the trusted image of reclaim.
 *
 * Invariants:
 * 1. Made from Debian packages and files of this directory alone; no third-party byte is in the repository.
 * 2. Cached by content: what was built from the same recipe and package versions is taken as it is; a half-written image never is.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { copyFile, mkdir, mkdtemp, open, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { referenceOf, referenceSuffix } from '../../../attestation/reference.ts';
import { type LinuxEnvironment, linuxImageBytes, makeLinuxImage } from './linux-image.ts';
import { otherImage } from './other-image.ts';
import { kernelPackage, unpackPackages } from './packages.ts';
import { patternedBytes } from './pattern.ts';
import { makeTrustedInitrd, type TrustedIngredients } from './trusted-image.ts';
import { unifiedKernel } from './unified-kernel.ts';

export interface LabImage {
  /** "alpha": also what the guest says of itself. */
  readonly name: string;
  /** A raw disk image. */
  readonly path: string;
  readonly sizeBytes: number;
  readonly sha256: string;
}

export interface LabImages {
  readonly alpha: LabImage;
  readonly beta: LabImage;
  /** With the sum that it reports when it has read itself whole. */
  readonly other: LabImage & { readonly sum: string };
  readonly trusted: BuiltTrustedImage;
}

/** Paths of a kernel and an initramfs to boot over the network, and of both in one file for UEFI (unified-kernel.ts). */
export interface BuiltTrustedImage {
  readonly kernel: string;
  readonly initrd: string;
  readonly unified: string;
  /** Reference values of `unified`, beside it. */
  readonly reference: string;
}

export interface BuildOptions {
  /** Pads alpha and beta to this size, a multiple of one mebibyte; 64 MiB when absent. */
  readonly sizeBytes?: number;
}

const environments: readonly LinuxEnvironment[] = [
  {
    name: 'alpha',
    release: '1',
    kernelArguments: ['lab.env=alpha', 'mitigations=off'],
    files: {
      'etc/motd': 'alpha: the first environment of the lab\n',
      'root/alpha.bin': patternedBytes('alpha', 0, 2 << 20),
    },
  },
  {
    name: 'beta',
    release: '2',
    kernelArguments: ['lab.env=beta', 'nokaslr'],
    files: {
      'etc/motd': 'beta: the second environment of the lab\n',
      'root/beta.bin': patternedBytes('beta', 0, 3 << 20),
    },
  },
];
const otherBytes = 8 << 20;
const osRelease = 'ID=bitvisor-trusted\nPRETTY_NAME="BitVisor trusted image"\n';

/** Builds what is not in `directory` yet. Throws an Error for people when a package or program is missing. */
export async function buildLabImages(directory: string, options: BuildOptions = {}): Promise<LabImages> {
  await mkdir(directory, { recursive: true });
  const sources = await sourcesOf(directory);
  const linux = async (environment: LinuxEnvironment): Promise<LabImage> => {
    const small = await cached(directory, environment.name, '.raw', [sources.key], (path, scratch) =>
      makeLinuxImage(path, scratch, environment, sources),
    );
    return padImage(await labImage(environment.name, small), options.sizeBytes ?? linuxImageBytes);
  };
  const [alpha, beta] = environments;
  if (alpha === undefined || beta === undefined) throw new Error('no environments');
  const { image, sum } = otherImage(otherBytes);
  const other = await cached(directory, 'other', '.raw', [image], (path) => writeFile(path, image));
  return {
    alpha: await linux(alpha),
    beta: await linux(beta),
    other: { ...(await labImage('other', other)), sum },
    trusted: await trustedImageOf(directory, sources),
  };
}

/** The trusted image alone; as `buildLabImages`. */
export async function buildTrustedImage(directory: string): Promise<BuiltTrustedImage> {
  await mkdir(directory, { recursive: true });
  return trustedImageOf(directory, await sourcesOf(directory));
}

async function trustedImageOf(directory: string, sources: Sources): Promise<BuiltTrustedImage> {
  const part = (suffix: string, make: (path: string) => Promise<void>): Promise<string> =>
    cached(directory, 'trusted', suffix, [sources.key], make);
  const initrd = await part('.initrd', async (path) => writeFile(path, await makeTrustedInitrd(sources)));
  const kernel = await part('.vmlinuz', (path) => copyFile(sources.kernel, path));
  const unified = await part('.efi', async (path) => {
    const parts = { osRelease, kernel: await readFile(kernel), initrd: await readFile(initrd) };
    await writeFile(path, unifiedKernel(await readFile(sources.stub), parts));
  });
  const reference = await part(`.efi${referenceSuffix}`, async (path) =>
    writeFile(path, JSON.stringify(referenceOf(await readFile(unified), basename(unified)))),
  );
  return { kernel, initrd, unified, reference };
}

/** The image with patterned bytes behind its end; the partitions stay as they are. */
export async function padImage(image: LabImage, sizeBytes: number): Promise<LabImage> {
  if (sizeBytes === image.sizeBytes) return image;
  if (sizeBytes < image.sizeBytes || sizeBytes % (1 << 20) !== 0) {
    throw new Error(
      `an image of ${image.sizeBytes} bytes is padded to whole mebibytes above that, not to ${sizeBytes}`,
    );
  }
  const path = image.path.replace(/\.raw$/, `-${sizeBytes / (1 << 20)}M.raw`);
  if ((await stat(path).catch(() => undefined)) === undefined) {
    const scratch = `${path}.${process.pid}`;
    await copyFile(image.path, scratch);
    const file = await open(scratch, 'r+');
    try {
      for (let at = image.sizeBytes; at < sizeBytes; at += 16 << 20) {
        await file.write(patternedBytes(image.name, at, Math.min(16 << 20, sizeBytes - at)), 0, undefined, at);
      }
    } finally {
      await file.close();
    }
    await rename(scratch, path);
  }
  return labImage(image.name, path);
}

async function labImage(name: string, path: string): Promise<LabImage> {
  const noted = `${path}.sha256`;
  let sha256 = await readFile(noted, 'utf8').catch(() => '');
  if (sha256 === '') {
    const hash = createHash('sha256');
    await pipeline(createReadStream(path, { highWaterMark: 1 << 20 }), hash);
    sha256 = hash.digest('hex');
    // Another build may do the same at this moment.
    const scratch = `${noted}.${process.pid}`;
    await writeFile(scratch, sha256);
    await rename(scratch, noted);
  }
  return { name, path, sizeBytes: (await stat(path)).size, sha256 };
}

interface Sources extends TrustedIngredients {
  /** systemd's EFI stub. */
  readonly stub: string;
  /** Changes with every package version and every file of this directory. */
  readonly key: string;
}

/**
 * Of every file of this directory. What runs was read at the start of this process, and scripts are read when they are used: where a file
 * changed in between, the image is neither the old recipe's nor the new one's, and no other process takes it for one.
 */
async function recipe(): Promise<Buffer> {
  const hash = createHash('sha256');
  for (const file of (await readdir(new URL('.', import.meta.url), { recursive: true, withFileTypes: true }))
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .sort()) {
    hash.update(await readFile(file));
    if ((await stat(file)).mtimeMs > performance.timeOrigin) hash.update(`changed under process ${process.pid}`);
  }
  return hash.digest();
}

async function sourcesOf(directory: string): Promise<Sources> {
  const names = [await kernelPackage(), 'busybox-static', 'diffutils', 'libc6', 'systemd-boot-efi'];
  const packages = await unpackPackages(join(directory, 'packages'), names);
  const [linux, busybox, diffutils, libc, boot] = packages;
  if (!linux || !busybox || !diffutils || !libc || !boot) throw new Error('a package is missing');
  const version = linux.name.replace(/^linux-image-/, '');
  const versions = packages.map(({ name, version }) => `${name} ${version}`).join('\n');
  return {
    kernel: join(linux.root, `boot/vmlinuz-${version}`),
    modules: join(linux.root, `lib/modules/${version}/kernel`),
    busybox: join(busybox.root, 'bin/busybox'),
    diffutils: diffutils.root,
    libc: libc.root,
    stub: join(boot.root, 'usr/lib/systemd/boot/efi/linuxx64.efi.stub'),
    key: createHash('sha256')
      .update(versions)
      .update(await recipe())
      .digest('hex'),
  };
}

/** The file of this name and recipe; made at a scratch path and renamed when it is whole. */
async function cached(
  directory: string,
  name: string,
  suffix: string,
  recipe: readonly unknown[],
  make: (path: string, scratch: string) => Promise<void>,
): Promise<string> {
  const hash = createHash('sha256');
  for (const part of recipe) hash.update(Buffer.isBuffer(part) ? part : JSON.stringify(part));
  const path = join(directory, `${name}-${hash.digest('hex').slice(0, 16)}${suffix}`);
  if ((await stat(path).catch(() => undefined)) !== undefined) return path;
  const scratch = await mkdtemp(join(directory, 'building-'));
  try {
    const whole = join(scratch, `${name}${suffix}`);
    await make(whole, scratch);
    await rename(whole, path);
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
  return path;
}
