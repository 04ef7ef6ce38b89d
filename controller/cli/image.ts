/**
 * `bitvisor-operator image pack|inspect|verify`: makes and reads the digest trees by which racks verify images.
 *
 * Invariant: standard output holds results alone; progress goes to standard error, and only to a terminal.
 */
import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { Agent } from 'undici';
import { treeSuffix } from '../../agent/image/acquire.ts';
import { FileOrigin, type Origin, OriginError, pathOfFileUrl } from '../../agent/image/origin.ts';
import { HttpOrigin, httpDispatcher } from '../../agent/image/origin-http.ts';
import { hashWhole, packImage, readTree, type TreeFacts, verifyByTree } from '../../agent/image/pack.ts';
import { TreeError } from '../../agent/image/tree.ts';
import { formatQuantity } from '../api/quantity.ts';
import { oneLine } from '../gitops/problems.ts';
import type { Clock } from '../runtime/clock.ts';
import { CliError } from './arguments.ts';
import type { Output } from './progress.ts';

export interface ImageContext {
  readonly signal: AbortSignal;
  readonly clock: Clock;
  readonly print: (line: string) => void;
  /** Where progress goes. */
  readonly terminal: Output;
}

export interface PackFlags {
  readonly blockSize: number;
  readonly force?: true;
}

/** How a server of images is believed. */
export interface ServerFlags {
  /** PEM file of authorities, in place of those that Node knows. */
  readonly ca?: string;
}

export interface VerifyFlags extends ServerFlags {
  readonly digest?: string;
}

const progressEveryMs = 200;
/** More say nothing new. */
const mostBadBlocks = 10;

const percent = (part: number, whole: number): string => `${((100 * part) / whole).toFixed(part === whole ? 0 : 1)} %`;
const bytesText = (bytes: number): string => `${formatQuantity(bytes)} (${bytes.toLocaleString('en-US')} bytes)`;

/** One line that is overwritten, with the rate since the start. */
function progressLine({ clock, terminal }: ImageContext, what: string): (done: number, total: number) => void {
  const startedAt = clock.monotonic();
  let nextAt = 0;
  return (done, total) => {
    const now = clock.monotonic();
    if (terminal.isTTY !== true || (now < nextAt && done < total)) return;
    nextAt = now + progressEveryMs;
    const rate = done / 1e6 / Math.max(0.001, (now - startedAt) / 1000);
    terminal.write(`\r\x1b[K${what}: ${percent(done, total)}, ${Math.round(rate)} MB/s${done < total ? '' : '\n'}`);
  };
}

/** A mistake in what was named or found is told in a sentence; anything else is a fault. */
async function told<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    const isSystem = error instanceof Error && 'code' in error && 'syscall' in error;
    if (error instanceof TreeError || error instanceof OriginError || isSystem)
      throw new CliError(oneLine(error.message));
    throw error;
  }
}

function originAt(place: string, dispatcher: Agent): Origin {
  if (!/^[a-z]+:\/\//i.test(place)) return new FileOrigin(place);
  const url = URL.parse(place);
  if (url === null) throw new CliError(`${place} is no URL`);
  if (url.protocol !== 'file:') return new HttpOrigin(url, dispatcher);
  const path = pathOfFileUrl(url);
  if (path instanceof OriginError) throw path;
  return new FileOrigin(path);
}

/** @throws CliError when the file holds no certificate: each server would be refused, and for another reason */
function authorities(file: string): string {
  try {
    const pem = readFileSync(file, 'utf8');
    new X509Certificate(pem);
    return pem;
  } catch (error) {
    const why = error instanceof Error && 'syscall' in error ? error.message : 'it holds no certificate in PEM';
    throw new CliError(`--ca ${file}: ${oneLine(why)}`);
  }
}

async function withOrigin<T>(place: string, { ca }: ServerFlags, work: (origin: Origin) => Promise<T>): Promise<T> {
  const dispatcher = httpDispatcher(ca === undefined ? {} : { caPem: authorities(ca) });
  try {
    return await told(async () => work(originAt(place, dispatcher)));
  } finally {
    await dispatcher.destroy();
  }
}

/** @returns the exit code */
export async function runImagePack(path: string, flags: PackFlags, context: ImageContext): Promise<number> {
  const { print, signal } = context;
  const { digest, wholeDigest, layout, zeroBlocks, treePath } = await told(() =>
    packImage(path, {
      blockBytes: flags.blockSize,
      force: flags.force === true,
      signal,
      onProgress: progressLine(context, 'packing'),
    }),
  );
  print(`wrote ${treePath}: put it beside the image, under the image's address and "${treeSuffix}"`);
  print(
    `  image   ${bytesText(layout.sizeBytes)}, ${percent(zeroBlocks, layout.dataBlocks)} zeros, which no rack fetches`,
  );
  print(`  blocks  ${layout.dataBlocks.toLocaleString('en-US')} of ${formatQuantity(layout.blockBytes)}`);
  print(`  file    SHA-256 ${wholeDigest} names the same image, but a rack then reads it whole first`);
  print('');
  print('In the ComputeEnvironment:');
  print('  image:');
  print('    url: # https:// or file:// address of the image');
  print(`    size: "${formatQuantity(layout.sizeBytes)}"`);
  print(`    sha256: ${digest}`);
  return 0;
}

/** @param place of an image or of its tree. @returns the exit code */
export function runImageInspect(place: string, flags: ServerFlags, { print, signal }: ImageContext): Promise<number> {
  return withOrigin(place, flags, async (origin) => {
    const { tree, digest } = await readTree(place.endsWith(treeSuffix) ? origin : origin.beside(treeSuffix), signal);
    const { layout, descriptor } = tree;
    let zeroBlocks = 0;
    for (let block = 0; block < layout.dataBlocks; block++) if (tree.isZero(block)) zeroBlocks++;
    print(`digest    ${digest}`);
    print(`image     ${bytesText(layout.sizeBytes)}, ${percent(zeroBlocks, layout.dataBlocks)} zeros`);
    print(`blocks    ${layout.dataBlocks.toLocaleString('en-US')} of ${formatQuantity(layout.blockBytes)}`);
    print(`tree      ${bytesText(layout.treeBytes)}, levels: ${layout.levels.length}, fs-verity version 1, SHA-256`);
    print(`root      ${descriptor.root.toString('hex')}`);
    return 0;
  });
}

/** The tree beside the image, where there is one and the digest names it; any tree when no digest is given. */
async function treeFor(
  origin: Origin,
  digest: string | undefined,
  signal: AbortSignal,
): Promise<TreeFacts | undefined> {
  try {
    const found = await readTree(origin.beside(treeSuffix), signal);
    return digest === undefined || found.digest === digest ? found : undefined;
  } catch (error) {
    const isMissing = error instanceof OriginError && error.fault === 'Refused';
    if (digest !== undefined && (isMissing || error instanceof TreeError)) return undefined;
    throw error;
  }
}

/** @returns the exit code: 1 when the image is not what the digest names */
export function runImageVerify(place: string, flags: VerifyFlags, context: ImageContext): Promise<number> {
  const { print, signal } = context;
  const onProgress = progressLine(context, 'verifying');
  return withOrigin(place, flags, async (origin) => {
    const facts = await treeFor(origin, flags.digest, signal);
    if (facts === undefined) {
      const found = await hashWhole(origin, { signal, onProgress });
      const isRight = found === flags.digest;
      print(
        isRight
          ? `${place} is what ${found} names, by the SHA-256 of the whole file`
          : `${place} is not what ${flags.digest} names: it has the SHA-256 ${found}, and no tree of that digest is beside it`,
      );
      return isRight ? 0 : 1;
    }
    let told = 0;
    const bad = await verifyByTree(origin, facts.tree, {
      signal,
      onProgress,
      onBadBlock(block) {
        const at = block * facts.tree.layout.blockBytes;
        if (told++ < mostBadBlocks)
          print(`block ${block} (bytes ${at} to ${at + facts.tree.layout.lengthOf(block) - 1}) differs`);
      },
    });
    const blocks = facts.tree.layout.dataBlocks.toLocaleString('en-US');
    if (bad > 0) print(`${place} is not what ${facts.digest} names: ${bad} of ${blocks} blocks differ`);
    else print(`${place} is what ${facts.digest} names, in all of its ${blocks} blocks`);
    if (bad === 0 && flags.digest === undefined)
      print('(by the tree beside it: compare this digest with that of the environment)');
    return bad === 0 ? 0 : 1;
  });
}
