/** What a plan adds to an image: kernel arguments, host name, keys and user data, where the image keeps a place for them. */
import type { VmmPlan } from '../port.ts';
import { layoutOffset, readLayout, tenantWrites, type Write } from './tenant-data.ts';

/**
 * @param read of the image that is exported to the machine
 * @throws Error for people when the image cannot take it
 */
export async function plannedWrites(
  { environment, epoch, hostname, sshKeys }: VmmPlan,
  read: (offset: number, length: number) => Promise<Buffer>,
  imageBytes: number,
): Promise<Write[]> {
  const { boot, userData } = environment;
  const layout = readLayout(await read(layoutOffset, 512), imageBytes);
  return tenantWrites(layout, {
    kernelArguments: boot.localArguments === 'InImage' ? [] : boot.kernelArguments,
    ...{ hostname, sshKeys, instance: String(epoch) },
    ...(userData === undefined ? {} : { userData: userData.inline }),
  });
}
