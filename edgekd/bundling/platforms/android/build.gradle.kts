// SPDX-License-Identifier: Apache-2.0
import groovy.json.JsonSlurper
import javax.inject.Inject

plugins {
    id("com.android.library")
    id("org.jetbrains.kotlin.android")
}

android {
    namespace = "edgekd.bundle"
    compileSdk = 35

    defaultConfig {
        minSdk = 24 // onnxruntime-android's own
        testInstrumentationRunner = "androidx.test.runner.AndroidJUnitRunner"
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
}

kotlin {
    compilerOptions {
        jvmTarget.set(org.jetbrains.kotlin.gradle.dsl.JvmTarget.JVM_17)
    }
}

dependencies {
    implementation("com.microsoft.onnxruntime:onnxruntime-android:1.29.0")
    androidTestImplementation("androidx.test:runner:1.6.2")
    androidTestImplementation("junit:junit:4.13.2")
}

/** Copies the manifest, its signature if there is one, and the files that it lists into `edgekd-bundle/` of the assets. */
abstract class CopyBundle : DefaultTask() {
    @get:InputFiles
    @get:PathSensitive(PathSensitivity.RELATIVE)
    abstract val bundle: ConfigurableFileTree

    @get:OutputDirectory
    abstract val assets: DirectoryProperty

    @get:Inject
    abstract val files: FileSystemOperations

    @TaskAction
    fun copy() {
        files.sync {
            from(bundle) { into("edgekd-bundle") }
            into(assets)
        }
    }
}

val bundleFolder: Directory = layout.projectDirectory.dir("..")
val manifest = JsonSlurper().parse(bundleFolder.file("edgekd-bundle.json").asFile) as Map<*, *>
val listed = (manifest["files"] as List<*>).map { (it as Map<*, *>)["path"] as String }

val copyBundle = tasks.register<CopyBundle>("copyBundle") {
    bundle.setDir(bundleFolder)
    bundle.include("edgekd-bundle.json", "edgekd-bundle.json.sig")
    bundle.include(listed)
}

androidComponents {
    onVariants { variant -> variant.sources.assets?.addGeneratedSourceDirectory(copyBundle, CopyBundle::assets) }
}
