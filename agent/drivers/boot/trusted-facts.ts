/**
 * What the trusted image says a machine is made of, and how that is compared with what it should be. Pure.
 *
 * Invariant: a line that has not the form of the protocol is no fact; numbers are whole and finite.
 */

export interface Facts {
  readonly cores: number;
  readonly memoryBytes: number;
  readonly systemUuid: string;
  readonly hasTpm: boolean;
  readonly disks: readonly { readonly name: string; readonly sizeBytes: number; readonly serial: string }[];
  readonly links: readonly { readonly address: string; readonly carrier: boolean }[];
}

/** What a node of its class must have; what is absent is not looked at. A file of the administrators, in JSON. */
export interface Baseline {
  readonly cores?: number;
  /** What the kernel calls total: less than is fitted, by what firmware and kernel keep. */
  readonly minMemoryBytes?: number;
  readonly disks?: readonly { readonly serial: string; readonly sizeBytes: number }[];
  /** Addresses of ports that must have a link. */
  readonly links?: readonly string[];
}

/** @param lines `key=value`, as the trusted image reports them */
export function readFacts(lines: readonly string[]): Facts {
  const all = (form: RegExp): string[][] =>
    lines.flatMap((line) => [form.exec(line)?.slice(1) ?? []]).filter((found) => found.length > 0);
  const number = (key: string): number => Number(all(new RegExp(`^${key}=(\\d{1,15})$`))[0]?.[0] ?? 0);
  return {
    cores: number('cores'),
    memoryBytes: number('memory-kib') * 1024,
    systemUuid: all(/^system-uuid=([0-9a-f-]{36})$/)[0]?.[0] ?? '',
    hasTpm: lines.includes('tpm=2'),
    disks: all(/^disk=([a-z0-9]{1,16}) (\d{1,15}) (\S{1,64})$/).map(([name = '', size, serial = '']) => ({
      name,
      sizeBytes: Number(size),
      serial,
    })),
    links: all(/^link=((?:[0-9a-f]{2}:){5}[0-9a-f]{2}) ([01])$/).map(([address = '', carrier]) => ({
      address,
      carrier: carrier === '1',
    })),
  };
}

/** What the machine misses of the baseline, a sentence each; empty: nothing. */
export function misses(facts: Facts, baseline: Baseline): string[] {
  const wrong: string[] = [];
  if (baseline.cores !== undefined && facts.cores !== baseline.cores) {
    wrong.push(`${facts.cores} cores instead of ${baseline.cores}`);
  }
  if (baseline.minMemoryBytes !== undefined && facts.memoryBytes < baseline.minMemoryBytes) {
    wrong.push(`${facts.memoryBytes} bytes of memory, less than ${baseline.minMemoryBytes}`);
  }
  for (const { serial, sizeBytes } of baseline.disks ?? []) {
    const disk = facts.disks.find((found) => found.serial === serial);
    if (disk === undefined) wrong.push(`disk ${serial} is missing`);
    else if (disk.sizeBytes !== sizeBytes)
      wrong.push(`disk ${serial} has ${disk.sizeBytes} bytes instead of ${sizeBytes}`);
  }
  const known = new Set(baseline.disks?.map(({ serial }) => serial));
  for (const { serial } of baseline.disks === undefined ? [] : facts.disks) {
    if (!known.has(serial)) wrong.push(`disk ${serial} is not in the baseline`);
  }
  for (const address of baseline.links ?? []) {
    if (!facts.links.some((link) => link.address === address && link.carrier))
      wrong.push(`port ${address} has no link`);
  }
  return wrong;
}
