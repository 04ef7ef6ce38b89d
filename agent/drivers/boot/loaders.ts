/**
 * The iPXE that firmware loads where a machine has none of its own: by TFTP from dnsmasq, or by HTTP from the boot server.
 *
 * Invariants:
 * 1. A machine names a platform, and never a path: the boot server has one loader for each, under a fixed name.
 * 2. A loader is for a kind of processor: firmware of another kind is told none.
 */
import { statSync } from 'node:fs';
import { join } from 'node:path';

/** Names of files in `root`. */
export interface Firmware {
  readonly root: string;
  readonly bios: string;
  /** For x64. */
  readonly uefi: string;
  /** UEFI of arm64; absent: there are no such machines. */
  readonly arm64?: string;
}

/** A kind of UEFI, and how it says in DHCP's option 93 (RFC 4578; IANA's Processor Architecture Types) by what it boots. */
export interface Platform {
  readonly name: 'x64' | 'arm64';
  readonly tftpCodes: readonly number[];
  readonly httpCode: number;
  readonly file: string;
}

export function platformsOf({ uefi, arm64 }: Firmware): Platform[] {
  return [
    { name: 'x64', tftpCodes: [7, 9], httpCode: 16, file: uefi },
    ...(arm64 === undefined ? [] : [{ name: 'arm64', tftpCodes: [11], httpCode: 19, file: arm64 } as const]),
  ];
}

/** The first part of a loader's path on the boot server. */
export const loaderPlace = 'firmware';
/** Firmware knows by the ending of the name that it is to run the file. */
export const loaderName = ({ name }: Platform): string => `${name}.efi`;
/** A longer one is not served; an iPXE has about one mebibyte. */
export const mostLoaderBytes = 32 << 20;

/** The file on this host. @param name the second and last part of the path on the boot server; undefined: there is none of that name */
export function loaderFile(firmware: Firmware, name: string): string | undefined {
  const platform = platformsOf(firmware).find((one) => loaderName(one) === name);
  return platform === undefined ? undefined : join(firmware.root, platform.file);
}

/** @throws Error that names a loader which the boot server could not send */
export function checkLoaders(firmware: Firmware): void {
  for (const { name, file } of platformsOf(firmware)) {
    const path = join(firmware.root, file);
    const found = statSync(path, { throwIfNoEntry: false });
    if (found?.isFile() === true && found.size > 0 && found.size <= mostLoaderBytes) continue;
    const what = found === undefined ? 'is not there' : `is no file of 1 byte to ${mostLoaderBytes >> 20} MiB`;
    throw new Error(`hardware.boot.dnsmasq.firmware: ${path}, the iPXE for ${name}, ${what}`);
  }
}
