// SPDX-License-Identifier: Apache-2.0
package edgekd.bundle.android

import android.content.res.AssetManager
import edgekd.bundle.Place
import java.io.InputStream

/** A bundle in a folder of the app's assets. */
internal class AssetFiles(private val assets: AssetManager, private val folder: String) : Place {
    override fun open(path: String): InputStream = assets.open("$folder/$path")
}
