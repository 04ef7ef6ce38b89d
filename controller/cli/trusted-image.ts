/**
 * `bitvisor-operator trusted-image build|measure`: the image of reclaim, and the reference values by which a TPM's quote of it is judged.
 *
 * Invariant: reference values are computed from files alone, and stand beside the image that they are of.
 */
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { basename } from 'node:path';
import { type ReferenceValues, referenceOf, referenceSuffix } from '../../agent/attestation/reference.ts';
import { CliError } from './arguments.ts';

type Print = (line: string) => void;

/** @throws CliError that names the file */
function read(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new CliError(error instanceof Error ? error.message : String(error));
  }
}

function printValues({ applications, initrd }: ReferenceValues, print: Print): void {
  for (const digest of applications) print(`  PCR 4  ${digest}`);
  print(`  PCR 9  ${initrd}  (initramfs; the command line is each boot's own)`);
}

/** @param loaders what firmware loads before it, in order */
export function runMeasure(path: string, loaders: readonly string[], print: Print): void {
  let reference: ReferenceValues;
  const [unified, ...before] = [read(path), ...loaders.map(read)];
  try {
    reference = referenceOf(unified as Buffer, basename(path), before);
  } catch (error) {
    throw new CliError(`${path}: ${error instanceof Error ? error.message : error}`);
  }
  const place = `${path}${referenceSuffix}`;
  writeFileSync(`${place}.new`, `${JSON.stringify(reference, null, 2)}\n`);
  renameSync(`${place}.new`, place);
  print(`wrote ${place}`);
  printValues(reference, print);
}

export async function runTrustedBuild(directory: string, loaders: readonly string[], print: Print): Promise<void> {
  const { buildTrustedImage } = await import('../../agent/drivers/qemu/images/build.ts');
  const { kernel, initrd, unified } = await buildTrustedImage(directory).catch((error: unknown) => {
    throw new CliError(error instanceof Error ? error.message : String(error));
  });
  runMeasure(unified, loaders, print);
  print('');
  print("In the agent's configuration:");
  print(`  trusted: { kernel: ${kernel}, initrd: ${initrd}, unified: ${unified} }`);
}
